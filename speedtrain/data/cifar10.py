"""CIFAR-10: on disk, or downloaded."""

import http.client
import os
import socket
import threading
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np

from speedtrain.config import CIFAR10
from speedtrain.data.source import Source, data_error

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"  # torchvision's
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_PER_CLASS = 500  # the competition's
PROBE_SECONDS = 3.0
DOWNLOAD_STALL_SECONDS = 30.0


def read_cifar10(data_root: str | Path | None) -> tuple[Source, Source]:
    """CIFAR-10's training and test images, downloaded if need be.

    Raises:
        UserError: neither on disk nor to be had.
    """
    folders = (data_root, os.environ.get("SPEEDTRAIN_DATA"), "data")
    roots = [Path(folder) for folder in folders if folder]
    problem = f"no {CIFAR10_FOLDER} folder in {' or '.join(map(str, roots))}"
    for root in roots:
        folder = root / CIFAR10_FOLDER
        if os.path.isdir(folder):
            try:
                return _torchvision_cifar10(root, download=False)
            except (OSError, RuntimeError):
                problem = f"{folder} is damaged or incomplete (its checksums are wrong)"
    if _answers(CIFAR10_URL):
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

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_STALL_SECONDS)  # torchvision sets none: a dead line would hang for ever
    try:
        splits = [datasets.CIFAR10(root, train=train, download=download) for train in (True, False)]
    finally:
        socket.setdefaulttimeout(before)
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


def _answers(url: str) -> bool:
    """Whether `url` can be had, decided within PROBE_SECONDS."""
    answers: list[int] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "speedtrain"})
        with (
            suppress(OSError, ValueError, http.client.HTTPException),
            urllib.request.urlopen(request, timeout=PROBE_SECONDS) as response,
        ):
            answers.append(response.status)

    # The timeout above holds for each single wait for the socket and not at all for the look-up of the
    # host's name, hence a thread that can be left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answers)
