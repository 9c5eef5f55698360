"""Data sets in Python, and torchvision's by name."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled_images import error_of, save_folder, some_images, some_labels
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from speedtrain.checked_types import nearest
from speedtrain.data import load_data

IMAGES, LABELS = some_images(30), some_labels(30)


class Pairs(Dataset):
    """Items of a list, as a data set of PyTorch gives them."""

    def __init__(self, items: list[Any], classes: Any = None) -> None:
        self.items, self.classes = items, classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Any:
        return self.items[place]


def pairs(make: Any = lambda image: image, label: Any = int) -> list[Any]:
    return [(make(image), label(number)) for image, number in zip(IMAGES, LABELS, strict=True)]


@pytest.mark.parametrize("make", [np.asarray, Image.fromarray, torch.from_numpy], ids=["array", "PIL", "tensor"])
@pytest.mark.parametrize("label", [int, np.int32, lambda number: torch.tensor(number)], ids=["int", "numpy", "tensor"])
def test_the_same_images_as_from_arrays(make: Any, label: Any) -> None:
    data, ours = load_data(Pairs(pairs(make, label))), load_data((IMAGES, LABELS))
    assert data.train.sha256() == ours.train.sha256()
    assert data.test.sha256() == ours.test.sha256()
    assert data.train.classes == ("0", "1", "2")


def test_a_list_of_pairs_with_names() -> None:
    data = load_data(pairs(Image.fromarray, lambda number: ["b", "a10", "a9"][number]))
    assert data.train.classes == ("a9", "a10", "b")
    ours = load_data((IMAGES, 2 - LABELS))
    assert data.train.sha256() == ours.train.sha256()


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["x", "y", "z"], ("x", "y", "z")),
        ([("x", "ex"), ("y",), ("z",)], ("x", "y", "z")),
        (["x", "y"], ("0", "1", "2")),
        (["x", "x", "y"], ("0", "1", "2")),
        (None, ("0", "1", "2")),
    ],
)
def test_names_of_numbered_classes(classes: Any, expected: tuple[str, ...]) -> None:
    assert load_data(Pairs(pairs(), classes)).train.classes == expected


def test_images_of_any_size_are_read_as_files_are(tmp_path: Path) -> None:
    wide = some_images(12, 40, 60, 3)
    save_folder(tmp_path / "set", {"a": wide[:6], "b": wide[6:]})
    from_files, from_python = load_data(tmp_path / "set"), load_data(ImageFolder(tmp_path / "set"))
    assert from_python.train.sha256() == from_files.train.sha256()
    assert from_python.train.classes == ("a", "b")
    assert any("10 of 12" in note or "12 of 12 images were cut" in note for note in from_python.notes)


def test_exif_orientation_of_images_in_memory(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(IMAGES[0])
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        data = load_data([(turned, 0), *pairs()[1:]])
    joined = np.concatenate([data.train.images, data.test.images])
    assert any((each == np.rot90(IMAGES[0], -1)).all() for each in joined)


BAD = {
    "no items": ([], "it holds no images"),
    "no pair": ([1, 2], "item 0 is a int: give pairs (image, label)"),
    "channels first": (pairs(lambda image: torch.from_numpy(image).permute(2, 0, 1)), "without a transform to tensors"),
    "floats": (pairs(lambda image: image / 255), "image 0 is float64"),
    "bytes": ([(b"JPEG", 0)], "image 0 is bytes: give the path of a file"),
    "no pixels": (pairs(lambda image: image[:0]), "image 0 has no pixels"),
    "a label that is none": (pairs(label=lambda number: [number]), "label 0 is a list"),
    "names and numbers": ([*pairs(), (IMAGES[0], "a")], "'a' for one, others are numbers"),
    "a negative label": ([*pairs(), (IMAGES[0], -1)], "label -1 is out of range"),
    "an enormous label": ([*pairs(), (IMAGES[0], 2**70)], "is out of range"),
}


@pytest.mark.parametrize(("data", "said"), BAD.values(), ids=BAD)
def test_bad_items(data: list[Any], said: str) -> None:
    assert said in error_of(load_data, data)


def test_an_item_that_raises() -> None:
    class Broken(Pairs):
        def __getitem__(self, place: int) -> Any:
            raise RuntimeError("two\nlines")

    assert "item 0 cannot be had (RuntimeError: two lines)" in error_of(load_data, Broken(pairs()))


def save_idx(path: Path, array: np.ndarray) -> None:
    """In the format of MNIST's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.fixture
def fashion(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A folder with Fashion-MNIST as torchvision keeps it, of 40 and 20 images."""
    grey = some_images(60, 28, 28)
    for split, images in (("train", grey[:40]), ("t10k", grey[40:])):
        raw = tmp_path / "FashionMNIST/raw"
        save_idx(raw / f"{split}-images-idx3-ubyte", images)
        save_idx(raw / f"{split}-labels-idx1-ubyte", (np.arange(len(images)) % 10).astype(np.uint8))
    return tmp_path, grey


@pytest.mark.parametrize("way", ["--data-root", "$SPEEDTRAIN_DATA"])
def test_torchvision_by_name(fashion: tuple[Path, np.ndarray], way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root, grey = fashion
    if way == "$SPEEDTRAIN_DATA":
        monkeypatch.setenv("SPEEDTRAIN_DATA", str(root))
    data = load_data("torchvision:FashionMNIST", data_root=root if way == "--data-root" else None)
    ours = load_data((grey[:40], some_labels(40, 10)), (grey[40:], some_labels(20, 10)))
    assert data.train.sha256() == ours.train.sha256()
    assert data.test.sha256() == ours.test.sha256()
    assert not data.test_is_holdout
    assert data.train.classes[0] == "T-shirt/top"


def test_torchvision_names_that_are_none() -> None:
    assert "did you mean 'FashionMNIST'" in error_of(load_data, "torchvision:FashonMNIST")
    assert "no classification data set of this name" in error_of(load_data, "torchvision:CocoDetection")


def test_every_torchvision_set_can_be_asked_for_as_it_is() -> None:
    """Its class is there, and takes the arguments that are given it for each split."""
    import inspect

    from torchvision import datasets

    from speedtrain.data.torchvision_sets import SETS

    for name, splits in SETS.items():
        kind = getattr(datasets, name)
        for options in splits.values():
            parameters: dict[str, Any] = {}
            for each in (kind, *kind.__mro__):
                if "__init__" in vars(each):
                    parameters |= inspect.signature(each.__init__).parameters
            assert set(options) <= set(parameters), name
    assert nearest("EuroSat", SETS) == "; did you mean 'EuroSAT'?"
