"""The classification data sets of torchvision, by name: `torchvision:FashionMNIST`."""

import inspect
from pathlib import Path
from typing import Any

from speedtrain.checked_types import nearest
from speedtrain.config import TORCHVISION
from speedtrain.data.download import data_roots, no_dead_lines
from speedtrain.data.image_files import Reading
from speedtrain.data.python_datasets import read_indexable
from speedtrain.data.source import Source, data_error
from speedtrain.data.splits import TRAIN, Sources, SplitChoice, read_chosen
from speedtrain.errors import UserError

_TRAIN_FLAG = {"train": {"train": True}, "test": {"train": False}}
_TRAIN_TEST = {"train": {"split": "train"}, "test": {"split": "test"}}
_TRAIN_VAL = {"train": {"split": "train"}, "val": {"split": "val"}}
_ALL_THREE = {**_TRAIN_VAL, **_TRAIN_TEST}
_ONE: dict[str, dict[str, Any]] = {"train": {}}

SETS: dict[str, dict[str, dict[str, Any]]] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "USPS"), _TRAIN_FLAG),
    **dict.fromkeys(
        ("FER2013", "Food101", "GTSRB", "LFWPeople", "RenderedSST2", "STL10", "SVHN", "StanfordCars"), _TRAIN_TEST
    ),
    **dict.fromkeys(("CLEVRClassification", "ImageNet", "Imagenette"), _TRAIN_VAL),
    **dict.fromkeys(("DTD", "FGVCAircraft", "Flowers102", "PCAM"), _ALL_THREE),
    **dict.fromkeys(("Caltech101", "Caltech256", "EuroSAT", "SEMEION", "SUN397"), _ONE),
    "Country211": {**_TRAIN_TEST, "valid": {"split": "valid"}},
    "EMNIST": {name: {"split": "balanced", **flag} for name, flag in _TRAIN_FLAG.items()},
    "INaturalist": {"train": {"version": "2021_train_mini"}, "val": {"version": "2021_valid"}},
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    "Places365": {
        name: {"split": split, "small": True} for name, split in (("train", "train-standard"), ("val", "val"))
    },
}
"""Name → split → what torchvision calls it. Not Omniglot, whose test images are of other classes."""


def read_torchvision(name: str, data_root: str | Path | None, reading: Reading, choice: SplitChoice) -> Sources:
    """A data set of torchvision, downloaded if need be, and its own test images where it has any.

    Args:
        name: `torchvision:` and the name of its class.
        data_root: as for `load_data`.
        reading: how the images are read.
        choice: which of its splits are used.

    Raises:
        UserError: torchvision has no such data set, or it is neither on disk nor to be had.
    """
    short = name.removeprefix(TORCHVISION)
    if short not in SETS:
        raise data_error(name, f"torchvision has no classification data set of this name{nearest(short, SETS)}")
    root, found = _find(name, data_root)

    def read(split: str, reading: Reading) -> Source:
        dataset = found if split == TRAIN and found is not None else _open(name, split, root, download=found is None)
        return read_indexable(dataset, name, reading, in_parallel=True)

    there = {split: split for split in SETS[short]}
    return read_chosen(there, name, name, read, reading, choice)


def _find(name: str, data_root: str | Path | None) -> tuple[Path, Any]:
    """The folder in which the data set lies, and its training split; or the folder to download it to, and None."""
    roots = data_roots(data_root)
    for root in roots:
        try:
            return root, _open(name, TRAIN, root, download=False)
        except UserError:
            continue
    return roots[0], None


def _open(name: str, split: str, root: Path, download: bool) -> Any:
    from torchvision import datasets

    short = name.removeprefix(TORCHVISION)
    kind = getattr(datasets, short)
    options = dict(SETS[short][split])
    if download and "download" in inspect.signature(kind).parameters:
        options["download"] = True
        root.mkdir(parents=True, exist_ok=True)
    try:
        with no_dead_lines():
            return kind(str(root), **options)
    except Exception as error:  # a data set raises whatever it likes, and so does a dead line
        reason = " ".join(str(error).split())
        what = f"cannot be read from {root}, nor downloaded to it" if download else f"in {root} cannot be read"
        raise data_error(name, f"{what} ({reason}): name its folder by --data-root, or choose other data") from error
