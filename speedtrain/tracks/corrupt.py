"""Writes a track: a labelled set that is long-tailed or has wrong labels, and its true labels in a file apart."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speedtrain.data.npz import read_npz
from speedtrain.errors import UserError
from speedtrain.files import write_npz
from speedtrain.tracks.label_noise import LabelNoise, parse_noise
from speedtrain.tracks.long_tail import keep_tail, tail_counts


@dataclass(frozen=True)
class Track:
    """What was written.

    Attributes:
        path: the `.npz` for those who train.
        truth: the `.npz` with the true labels, for those who score.
        classes: names of the K classes.
        counts: images of each class, by their true labels, int64 [K].
        confusion: labels j of images of true class i, int64 [K, K].
        warnings: lines for the user.
    """

    path: Path
    truth: Path
    classes: tuple[str, ...]
    counts: np.ndarray
    confusion: np.ndarray
    warnings: tuple[str, ...]


def corrupt(
    data: str | Path,
    out: str | Path,
    *,
    imbalance: float = 1.0,
    noise: str | None = None,
    annotators: int = 1,
    seed: int = 0,
) -> Track:
    """Makes a track of a clean set. The same arguments give the same bytes.

    Args:
        data: an `.npz` with `images` and `labels`. The images are copied as they are.
        out: file to write, new. Beside it, `NAME.truth.npz` gets the true `labels`, and the `indices` of the images in
            `data`.
        imbalance: how many times as large the first class is as the last; see `tail_counts`. Default: 1.0, as it is.
        noise: `symmetric:RATE`, `pair:RATE`, `imbalanced:RATE`, or the path of a matrix; see `LabelNoise`. Default:
            none.
        annotators: A, how many labels each image gets, with errors of their own. From 2 on, the labels are int64
            [N, A]. Default: 1.
        seed: of what is drawn. Default: 0.

    Returns:
        The track. Its file also holds `transition`, the noise as a matrix float64 [K, K], and its `recipe`.

    Raises:
        UserError: bad input; nothing is written then.
    """
    data, out = Path(data), Path(out)
    if out.suffix != ".npz":
        raise UserError(f"--out {out}: give the name of an .npz")
    truth = out.with_suffix(".truth.npz")
    for path in (out, truth):
        if path.exists():
            raise UserError(f"--out {path}: exists; name a new file")
    label_noise = LabelNoise("symmetric", 0.0) if noise is None else parse_noise(noise)
    if annotators < 1:
        raise UserError(f"--annotators must be 1 or more, got {annotators}")
    if annotators > 1 and noise is None:
        raise UserError(f"--annotators {annotators}: without --noise they would all agree; give --noise")
    if imbalance == 1 and noise is None:
        raise UserError("corrupt: nothing to do; give --imbalance, --noise, or both")
    arrays = _read(data)
    labels, classes = _checked_labels(arrays, data)
    generator = np.random.default_rng(seed)
    kept = np.arange(len(labels))
    available = np.bincount(labels, minlength=len(classes))
    if not available.all():
        raise UserError(f"--data {data}: class {classes[int(available.argmin())]} has no image")
    if imbalance != 1:
        kept = keep_tail(labels, tail_counts(available, imbalance), generator)
    kept = generator.permutation(kept)  # the order of a set that is sorted by class would tell the true labels
    true = labels[kept]
    counts = np.bincount(true, minlength=len(classes))
    votes = np.stack([label_noise.apply(true, len(classes), generator) for _ in range(annotators)], axis=1)
    recipe = {
        "data_sha256": hashlib.sha256(np.ascontiguousarray(arrays["images"]).data).hexdigest(),
        "imbalance": imbalance,
        "noise": None if noise is None else {"kind": label_noise.kind, "rate": label_noise.rate},
        "seed": seed,
        "images": len(true),
        "wrong_labels": int((votes != true[:, None]).sum()),
    }
    if annotators > 1:
        recipe["annotators"] = annotators
    transition = label_noise.transition(counts)
    try:
        write_npz(
            out,
            images=arrays["images"][kept],
            labels=votes if annotators > 1 else votes[:, 0],
            classes=np.array(classes),
            transition=transition,
            recipe=np.array(json.dumps(recipe)),
        )
        write_npz(truth, labels=true, indices=kept)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from None
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (true[:, None], votes), 1)
    return Track(out, truth, classes, counts, confusion, tuple(_warnings(transition, classes)))


def _read(data: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` without splits: of one with splits it would not be clear which is meant."""
    if data.is_dir():
        raise UserError(f"--data {data}: a folder; write its images to an .npz as `images` and `labels`")
    arrays = read_npz(data, required=("images", "labels"))
    with np.load(data, allow_pickle=False) as archive:
        if "images" not in archive.files:
            raise UserError(f"--data {data}: has splits; write the images to corrupt as `images` and `labels`")
    return arrays


def _checked_labels(arrays: dict[str, np.ndarray], data: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels int64 [N], and the names of the classes."""
    labels, images = arrays["labels"], arrays["images"]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(f"--data {data}: labels must be integers [N], and are {labels.dtype} {list(labels.shape)}")
    if len(labels) != len(images) or not len(labels):
        raise UserError(f"--data {data}: {len(images)} images and {len(labels)} labels")
    if labels.min() < 0:
        raise UserError(f"--data {data}: labels begin at 0, and one is {labels.min()}")
    names = arrays.get("classes")
    if names is None and labels.max() >= len(labels):
        raise UserError(f"--data {data}: label {labels.max()} of {len(labels)} images: number the classes from 0")
    if names is not None and names.dtype.kind != "U":
        raise UserError(f"--data {data}: classes must be text, and are {names.dtype}")
    classes = tuple(map(str, range(int(labels.max()) + 1) if names is None else names.tolist()))
    if labels.max() >= len(classes):
        raise UserError(f"--data {data}: label {labels.max()}, but there are {len(classes)} classes")
    if len(classes) < 2:
        raise UserError(f"--data {data}: a single class")
    return labels.astype(np.int64), classes


def _warnings(transition: np.ndarray, classes: tuple[str, ...]) -> list[str]:
    """Which classes' true label is not the likeliest any more."""
    diagonal = transition.diagonal()
    lost = [name for name, row, own in zip(classes, transition, diagonal, strict=True) if own < row.max() - 1e-12]
    if not lost:
        return []
    named = ", ".join(lost[:5]) + (", …" if len(lost) > 5 else "")
    return [f"warning: so much noise that the true label is not the likeliest of {named}"]
