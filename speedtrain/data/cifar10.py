"""CIFAR-10: on disk, or downloaded."""

import http.client
import os
from pathlib import Path

import numpy as np

from speedtrain.config import CIFAR10
from speedtrain.data.download import answers, data_roots, no_dead_lines
from speedtrain.data.source import Source, data_error

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"  # torchvision's
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_PER_CLASS = 500  # the competition's


def read_cifar10(data_root: str | Path | None) -> tuple[Source, Source]:
    """CIFAR-10's training and test images, downloaded if need be.

    Raises:
        UserError: neither on disk nor to be had.
    """
    roots = data_roots(data_root)
    problem = f"no {CIFAR10_FOLDER} folder in {' or '.join(map(str, roots))}"
    for root in roots:
        folder = root / CIFAR10_FOLDER
        if os.path.isdir(folder):
            try:
                return _torchvision_cifar10(root, download=False)
            except (OSError, RuntimeError):
                problem = f"{folder} is damaged or incomplete (its checksums are wrong)"
    if answers(CIFAR10_URL):
        try:
            return _torchvision_cifar10(roots[0], download=True)
        except (OSError, RuntimeError, EOFError, http.client.HTTPException) as error:
            problem += f", and the download failed ({error})"
    else:
        problem += f", and {CIFAR10_URL} does not answer"
    raise data_error(
        CIFAR10,
        f"{problem}: unpack cifar-10-python.tar.gz in {roots[0]}, or choose --data digits or --data PATH",
    )


def _torchvision_cifar10(root: Path, download: bool) -> tuple[Source, Source]:
    """CIFAR-10 below `root` as torchvision keeps it: it checks every file's MD5, of the archive as well."""
    from torchvision import datasets

    with no_dead_lines():
        splits = [datasets.CIFAR10(root, train=train, download=download) for train in (True, False)]
    train, test = (
        Source(
            name=CIFAR10,
            where=CIFAR10,
            images=np.ascontiguousarray(split.data),
            labels=np.array(split.targets, dtype=np.int64),
            classes=tuple(split.classes),
            native=True,
            root=str(root),
            notes=(f"CIFAR-10 was downloaded to {root}",) if download else (),
            default_per_class=CIFAR10_PER_CLASS,
        )
        for split in splits
    )
    return train, test
