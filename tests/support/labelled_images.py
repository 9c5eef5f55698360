"""Images, labels, files and folders for tests of data, and the one-line error of a call."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from speedtrain.errors import UserError


def some_images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *(shape or (32, 32, 3))), dtype=np.uint8)


def some_labels(count: int, num_classes: int = 3) -> np.ndarray:
    return np.arange(count) % num_classes


def save_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def save_folder(root: Path, classes: dict[str, np.ndarray], suffix: str = ".png") -> Path:
    for name, images in classes.items():
        (root / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(root / name / f"{number:04}{suffix}")
    return root


def digests(images: np.ndarray) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def error_of(call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """The message of the UserError that the call must raise, which must be one line."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert message == message.strip()
    assert len(message.splitlines()) == 1
    return message


GOOD, LABELS = some_images(12), some_labels(12)
CLOSED_PORT = "http://127.0.0.1:9/cifar-10-python.tar.gz"  # refused at once, with a network or without
