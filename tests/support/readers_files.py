"""What README and docs call the reader's own files: images and submissions."""

import json
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits

TRAIN_FILES = ("train.npz", "train5k.npz", "cifar10_train5k.npz")
TEST_FILES = ("test.npz", "dev5k_last2500.npz")
"""How the pages call the reader's own images."""


def write_files() -> None:
    """Writes them to the current folder: real images of ten classes, 400 to train on and 100 to test."""
    bunch = load_digits()
    images = np.kron(bunch.images, np.ones((1, 4, 4))).astype(np.uint8) * 15
    images, labels = np.repeat(images[..., None], 3, axis=3), bunch.target.astype(np.int64)
    for name in TRAIN_FILES:
        np.savez(name, images=images[:400], labels=labels[:400])
    for name in TEST_FILES:
        np.savez(name, images=images[400:500], labels=labels[400:500])
    table, annotators = ["file,breed"], ["file,label1,label2,label3"]
    for number in range(60):
        path = Path("photos", f"digit-{labels[number]}", f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number]).save(path)
        table.append(f"{path.as_posix()},digit {labels[number]}")
        others = [labels[number], (labels[number] + (number % 7 == 0)) % 10]
        annotators.append(",".join([path.as_posix(), *(f"digit {label}" for label in [labels[number], *others])]))
    Path("labels.csv").write_text("\n".join([*table, ""]))
    Path("annotators.csv").write_text("\n".join([*annotators, ""]))
    Path("new").mkdir()
    for number in range(500, 503):
        Image.fromarray(images[number]).save(Path("new", f"{number}.png"))
    torch.save(timm.create_model("resnet18").state_dict(), "resnet18.pth")
    Path("inbox").mkdir()
    for name in ("a", "b", "late", "inbox/a", "inbox/b"):
        write_submission(Path(f"{name}.zip"))


TRAINING = """
    import argparse
    import numpy as np
    parser = argparse.ArgumentParser()
    for option in ("--data", "--net_sav", "--budget"):
        parser.add_argument(option)
    options = parser.parse_args()
    with np.load(options.data) as data:
        means = np.stack([data["images"][data["labels"] == k].mean(0) for k in range(data["labels"].max() + 1)])
    with open(options.net_sav, "wb") as file:
        np.save(file, means)
"""
TESTING = """
    import argparse
    import numpy as np
    parser = argparse.ArgumentParser()
    for option in ("--data", "--net_sav", "--predictions"):
        parser.add_argument(option)
    options = parser.parse_args()
    with np.load(options.data) as data:
        images = data["images"].astype(float)
    distances = [((images - mean) ** 2).mean((1, 2, 3)) for mean in np.load(options.net_sav)]
    np.save(options.predictions, np.stack(distances).argmin(0))
"""


def write_submission(path: Path) -> None:
    """An entrant that learns the mean image of each class, in a tenth of a second."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("training.py", textwrap.dedent(TRAINING))
        archive.writestr("test.py", textwrap.dedent(TESTING))
        archive.writestr("manifest.json", json.dumps({"interface": 1, "name": path.stem, "licence": "MIT"}))
