"""The directory of a sweep: one owner at a time, a record of what the sweep is, and the images of its trials."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.data import Data, Images
from speedtrain.errors import UserError
from speedtrain.files import lock, write_atomic, write_npz

SCHEMA = 1
"""Version of the JSON files of a sweep."""

EARLIER = {"metric": "accuracy"}
"""What `sweep.json` of a search means where an earlier version wrote it, without these keys."""


@contextmanager
def lock_folder(out: Path) -> Iterator[None]:
    """Holds `out`, made if need be, for this process. The lock ends with the process, also when it is killed.

    Raises:
        UserError: another sweep holds the folder, or the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = open(out / ".lock", "w")  # noqa: SIM115 (held open until the end)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from None
    with file:
        if not lock(file):
            raise UserError(f"--out {out}: another sweep is running there")
        yield


def record_identity(out: Path, identity: Mapping[str, Any], resume: bool) -> None:
    """Writes `sweep.json`, or checks that the sweep in `out` is the same one.

    Args:
        out: the directory of the sweep.
        identity: JSON values by name; together they define the sweep.
        resume: whether a sweep in `out` may go on.

    Raises:
        UserError: `out` holds other files, a sweep that is not to be resumed, or a different sweep.
    """
    path = out / "sweep.json"
    content = json.loads(json.dumps({"schema": SCHEMA, **identity}))
    if not path.exists():
        if any(entry.name != ".lock" for entry in out.iterdir()):
            raise UserError(f"--out {out}: exists and is not empty; name a new folder")
        write_atomic(path, json.dumps(content, indent=2, ensure_ascii=False).encode())
        return
    if not resume:
        raise UserError(f"--out {out}: there is a sweep already; go on with --resume, or name a new folder")
    recorded = {**EARLIER, **json.loads(path.read_text(encoding="utf-8"))}
    for key in content:
        if content[key] != recorded.get(key):
            raise UserError(f"--resume: {key} is not what it was when {out} was begun; name a new folder")


def write_images(folder: Path, data: Data, seeds: Sequence[int] = (), subset: int | None = None) -> None:
    """Writes the images of all trials, so that no later change of the source affects the sweep.

    Args:
        folder: for `test.npz`, and `train.npz` or, with a subset, `train-SEED.npz`. Files that exist are kept.
        data: the images.
        seeds: the seeds of the sweep; they draw the subsets.
        subset: training images per class, drawn anew for each seed. Default: all, the same for each seed.
    """
    folder.mkdir(exist_ok=True)
    _write_set(folder / "test.npz", replace(data.test, votes=None))  # scored by the same labels in every trial
    if subset is None:
        _write_set(folder / "train.npz", data.train)
        return
    labels = data.train.labels
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(len(labels))
        members = [order[labels[order] == label][:subset] for label in range(len(data.train.classes))]
        _write_set(folder / f"train-{seed}.npz", data.train, np.sort(np.concatenate(members)))


def _write_set(path: Path, images: Images, chosen: np.ndarray | slice = slice(None)) -> None:
    if not path.exists():
        names = np.array(images.classes)
        labels = images.labels if images.votes is None else images.votes
        write_npz(path, images=images.images[chosen], labels=labels[chosen], classes=names)
