"""Looks for wrong labels: trains on the other images, and asks who disagrees with the label."""

import csv
import io
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speedtrain.config import Config, resolve
from speedtrain.data import Images
from speedtrain.data.annotators import labels_for_training
from speedtrain.data.configured import load_given, source_name
from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.member_configs import member_configs
from speedtrain.model.load import load
from speedtrain.run import run_directory
from speedtrain.run.budget_too_small import explain_nothing_saved
from speedtrain.run.checks_before_start import check_network, resolve_machine
from speedtrain.run.interruption import Interruption
from speedtrain.run.launcher import WorkerProcess
from speedtrain.run.progress import Display
from speedtrain.starting_point import find_trained_run
from speedtrain.suspects.page import suspects_page

FOLDS = 3
UNUSED = {"test": "the labels of the training images are judged", "per_class": "all training images are judged"}
"""Options of `train` without a use → why."""


@dataclass(frozen=True)
class Suspects:
    """Labels that look wrong.

    Attributes:
        places: of the images among those given, int64 [S], the most suspect first.
        images: all of them; a label given by several annotators is their majority's.
        suggested: the most probable class of each image, int64 [N].
        scores: how sound each label looks, from 0 (wrong) to 1, float64 [N]; NaN where the label was not judged.
        agreement: share of the labels judged that are the most probable class.
        out: the folder with `suspects.csv`, `suspects.json` and `suspects.html`.
    """

    places: np.ndarray
    images: Images
    suggested: np.ndarray
    scores: np.ndarray
    agreement: float
    out: Path

    @property
    def judged(self) -> np.ndarray:
        """Which labels were judged, bool [N]."""
        return np.isfinite(self.scores)

    def rows(self) -> list[dict[str, Any]]:
        """What the files say of each suspect label: image, given, suggested, score."""
        classes, labels = self.images.classes, self.images.labels
        return [
            {
                "image": place if self.images.files is None else self.images.files[place],
                "given": classes[labels[place]],
                "suggested": classes[self.suggested[place]],
                "score": round(float(self.scores[place]), 6),
            }
            for place in self.places.tolist()
        ]


def find_suspects(
    budget: float | None = None,
    data: Any = None,
    out: str | Path = "suspects",
    *,
    folds: int = FOLDS,
    quiet: bool | None = None,
    **options: Any,
) -> Suspects:
    """Labels that look wrong: `python -m speedtrain suspects`.

    The images are divided into folds. For each fold a network is trained on the others, for its share of the budget,
    and predicts the images of the fold. Confident learning (Northcutt et al., arXiv 1911.00068), by the package
    cleanlab, decides from these probabilities which labels are suspect.

    Args:
        budget: seconds, of all trainings together.
        data: labelled images, as for `train`; of data with test images of its own, the training images.
        out: folder to write, new. Default: suspects.
        folds: into how many parts the images are divided, at least 2. Default: 3.
        quiet: as for `train`.
        options: as for `train`.

    Raises:
        UserError: bad input, cleanlab is not installed, or a training fails.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"--out {out}: exists; name a new folder")
    if folds < 2:
        raise UserError(f"--folds must be 2 or more, got {folds}")
    _check_installed()
    for option, why in UNUSED.items():
        if options.pop(option, None) is not None:
            raise UserError(f"--{option.replace('_', '-')} has no use here: {why}")
    config = resolve(budget=budget, data=source_name(data), **options)
    if find_trained_run(config.start_from) is not None:
        raise UserError(
            f"--from {config.start_from}: a network that was trained before may know the labels to be judged"
        )
    config.budget /= folds
    display = Display(quiet)
    messages = resolve_machine(config)
    loaded = load_given(config, data, None, holdout=False, progress=display.reading)
    images = loaded.train
    config.side, config.pixel_max = loaded.side, images.pixel_max or config.pixel_max
    fold_of = divide(images, folds)
    for note in (*loaded.notes, *messages, *_left_out(images, fold_of)):
        display.warn(note)
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from None
    try:
        probabilities = _predict_all(config, images, fold_of, display)
    except BaseException:
        out.rmdir()  # empty so far
        raise
    judged = fold_of >= 0
    places, scores = np.flatnonzero(judged), np.full(len(judged), np.nan)
    ranked, scores[judged] = _confident_learning(images.labels[judged], probabilities[judged])
    suggested = np.where(judged, probabilities.argmax(axis=1), images.labels)
    agreement = float((suggested == images.labels)[judged].mean())
    if agreement < 0.5:
        display.warn(f"warning: the networks agree with only {agreement:.0%} of the labels: give a longer --budget")
    found = Suspects(places[ranked], images, suggested, scores, agreement, out)
    _write(found, probabilities)
    return found


def _predict_all(config: Config, images: Images, fold_of: np.ndarray, display: Display) -> np.ndarray:
    """Probabilities float32 [N, K] of every image, by a network that was not trained on it; NaN where there is none."""
    probabilities = np.full((len(images.labels), len(images.classes)), np.nan, np.float32)
    folds = int(fold_of.max()) + 1
    with tempfile.TemporaryDirectory(prefix="speedtrain-", ignore_cleanup_errors=True) as folder:
        for fold in range(folds):
            part = f"part {fold + 1} of {folds}, of {config.budget:.1f} s"
            display.info(part)
            held = fold_of == fold
            try:
                probabilities[held] = _predict(config, images, held, Path(folder, str(fold)), display)
            except UserError as error:
                raise UserError(f"{part}: {error}") from None
    return probabilities


def divide(images: Images, folds: int) -> np.ndarray:
    """The fold of each image, int64 [N]; -1 for those that are always trained on.

    Each fold has as large a share of every class as the whole, and groups stay whole. Always trained on are classes
    with fewer images than folds, since no other image could stand for them, and the groups of their images.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    counts = np.bincount(images.labels, minlength=len(images.classes))
    fold_of = np.full(len(images.labels), -1)
    alone = counts[images.labels] < folds
    if images.groups is not None:
        alone |= np.isin(images.groups.astype(str), images.groups[alone].astype(str))
    divided = np.flatnonzero(~alone)
    if not len(divided):
        raise UserError(f"{images.name}: no class has {folds} images: give more, or fewer --folds")
    labels = images.labels[divided]
    if images.groups is None:
        parts = StratifiedKFold(folds, shuffle=True, random_state=0).split(labels, labels)
    else:
        groups = images.groups[divided].astype(str)
        if (count := len(set(groups))) < folds:
            raise UserError(f"{images.name}: {count} groups cannot be divided into {folds} parts: give fewer --folds")
        parts = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(labels, labels, groups)
    for number, (_, held) in enumerate(parts):
        fold_of[divided[held]] = number
    for number in range(folds):
        if missing := set(range(len(counts))) - set(images.labels[fold_of != number].tolist()):
            name = images.classes[min(missing)]
            raise UserError(f"{images.name}: class {name!r} is in one part alone, by its groups: leave the groups out")
    return fold_of


def _left_out(images: Images, fold_of: np.ndarray) -> list[str]:
    alone = fold_of < 0
    if not alone.any():
        return []
    name = images.classes[images.labels[alone][0]]
    return [f"{alone.sum()} images of classes with too few to divide are not judged, of {name!r} for one"]


def _predict(config: Config, images: Images, held: np.ndarray, run: Path, display: Display) -> np.ndarray:
    """Probabilities float32 [M, K] of the images held out, by a network trained on the others."""
    train = images.subset(~held)
    if train.votes is not None:
        train, _ = labels_for_training(train, config.labels, config.seed)
    config, weights = replace(config), run_directory.new_run_directory(run) / "weights.safetensors"
    start, members = check_network(config, train), member_configs(config)
    with Interruption() as interruption:
        worker = WorkerProcess(config, train, run, display, start=start, members=members)
        ended = worker.work(interruption)
        if interruption.signal is not None:
            raise KeyboardInterrupt(interruption.signal)
        if reason := worker.last_error(ended):
            raise UserError(f"the training failed: {reason}")
        if not weights.exists():
            raise UserError(explain_nothing_saved(config, train, interruption))
    torch.set_num_threads(config.threads or 1)
    model = load(weights, device=config.device)
    return model.predict_all(images.subset(held).images, progress=display.counting("judging")).probabilities


def _check_installed() -> None:
    try:
        import cleanlab  # noqa: F401
    except ImportError as error:
        raise UserError(f"suspects needs cleanlab ({error}): pip install 'speedtrain[labels]'") from None


def _confident_learning(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the suspect labels, the most suspect first, and the soundness of every label [N]."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    present, numbers = np.unique(labels, return_inverse=True)  # cleanlab wants every class to have a label
    of_these = probabilities[:, present].astype(np.float64) + 1e-12
    of_these /= of_these.sum(axis=1, keepdims=True)
    ranked = find_label_issues(numbers, of_these, return_indices_ranked_by="self_confidence", n_jobs=1)
    return ranked, get_label_quality_scores(numbers, of_these)


def _write(found: Suspects, probabilities: np.ndarray) -> None:
    rows, images = found.rows(), found.images
    text = io.StringIO()
    table = csv.DictWriter(text, ("image", "given", "suggested", "score"), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    summary = {
        "data": images.name,
        "images": len(images.labels),
        "judged": int(found.judged.sum()),
        "agreement": round(found.agreement, 6),
        "suspects": rows,
    }
    try:
        write_atomic(found.out / "suspects.csv", text.getvalue().encode())
        write_atomic(found.out / "suspects.json", json.dumps(summary, indent=1, ensure_ascii=False).encode())
        write_atomic(found.out / "suspects.html", suspects_page(images, found.places, probabilities).encode())
    except OSError as error:
        raise UserError(f"--out {found.out}: cannot be written ({error.strerror})") from None
