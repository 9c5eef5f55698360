"""Which test images have the weights seen that training starts from? Their score would look better than it is."""

import io
from pathlib import Path

import numpy as np

from speedtrain.data import Images
from speedtrain.data.splits import fingerprints
from speedtrain.files import write_atomic
from speedtrain.starting_point import TrainedRun

FILE = "training_images.npy"
"""In a run directory: a fingerprint of every training image, and of those of the runs that it started from."""


def _short_fingerprints(images: np.ndarray) -> np.ndarray:
    """The first 8 bytes of the fingerprint of each image uint8 [N, side, side, 3]: uint64 [N]."""
    return np.frombuffer(b"".join(fingerprint[:8] for fingerprint in fingerprints(images)), "<u8")


def write_seen_images(run: Path, train: Images, start: TrainedRun | None) -> None:
    """Writes the fingerprints of what the weights of a run will have seen.

    Raises:
        OSError: they could not be written.
    """
    before = _read(start)
    seen = _short_fingerprints(train.images)
    content = io.BytesIO()
    np.save(content, seen if before is None else np.union1d(seen, before))
    write_atomic(run / FILE, content.getvalue())


def count_seen_images(start: TrainedRun, test: Images) -> int | None:
    """How many test images the weights of a run have seen; None where its directory does not tell."""
    seen = _read(start)
    return None if seen is None else int(np.isin(_short_fingerprints(test.images), seen).sum())


def notes_on_seen_images(start: TrainedRun, seen: int | None, num_test: int) -> list[str]:
    """What is to be said of them to the user."""
    if seen is None:
        return [f"{start.path}: not known which images it was trained on: the test images must not be among them"]
    if not seen:
        return []
    return [
        f"{seen} of {num_test} test images were training images of {start.path.parent}: the accuracy will look better "
        "than it is; name others with --test"
    ]


def _read(start: TrainedRun | None) -> np.ndarray | None:
    if start is None:
        return None
    for folder in (start.path.parent, *start.path.parents[2:3]):  # of one network of several, the run is further up
        try:
            return np.load(folder / FILE, allow_pickle=False)
        except (OSError, ValueError):
            continue
    return None
