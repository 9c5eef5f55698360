"""The data sets that need no path: CIFAR-10, and scikit-learn's digits."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from speedtrain.config import CIFAR10, DIGITS
from speedtrain.data.arrays import check_arrays, standard_images
from speedtrain.data.cifar10 import read_cifar10
from speedtrain.data.image_files import Reading
from speedtrain.data.source import Source
from speedtrain.errors import UserError


def read_builtin(name: str, data_root: str | Path | None, reading: Reading) -> tuple[Source, Source | None]:
    """The images of a built-in data set, and its own test images where it has any.

    Args:
        name: one of `config.DATA_SETS`; `auto` is CIFAR-10, or the digits where CIFAR-10 cannot be read or downloaded.
        data_root: as for `load_data`.
        reading: the side and fit of the images.

    Raises:
        UserError: CIFAR-10 was named and cannot be read or downloaded.
    """
    if name == DIGITS:
        return _read_digits(reading), None
    try:
        train, test = (
            replace(source, images=standard_images(source.images, CIFAR10, reading).images)
            for source in read_cifar10(data_root)
        )
        return train, test
    except UserError as error:
        if name == CIFAR10:
            raise
        digits = _read_digits(reading)
        note = f"training on scikit-learn's digits instead of CIFAR-10 ({error})"
        return replace(digits, notes=(note, *digits.notes)), None


def _read_digits(reading: Reading) -> Source:
    """scikit-learn's 1,797 digits: 8×8, 0..16."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    names = np.array([str(name) for name in digits.target_names])
    return check_arrays(DIGITS, DIGITS, reading, grey, digits.target, names)
