"""Small real submissions, which learn the mean image of each class in a tenth of a second."""

import json
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from speedtrain.judge import machine_speed, sandbox_check
from speedtrain.judge.sandbox_check import works

TRAIN = """
    import argparse, os, sys, time
    import numpy as np
    parser = argparse.ArgumentParser()
    parser.add_argument("--data"); parser.add_argument("--net_sav"); parser.add_argument("--budget", type=float)
    options = parser.parse_args()
    with np.load(options.data) as data:
        images, labels = data["images"].astype(np.float32), data["labels"]
    means = np.stack([images[labels == k].mean(0) for k in range(labels.max() + 1)])
    with open(options.net_sav, "wb") as file:
        np.save(file, means)
    print("images_seen:", len(images))
"""
TEST = """
    import argparse, os, sys, time
    import numpy as np
    parser = argparse.ArgumentParser()
    parser.add_argument("--data"); parser.add_argument("--net_sav"); parser.add_argument("--predictions")
    options = parser.parse_args()
    with np.load(options.data) as data:
        images, names = data["images"].astype(np.float32), data.files
    with open(options.net_sav, "rb") as file:
        means = np.load(file)
    distances = [((images - mean) ** 2).mean((1, 2, 3)) for mean in means]
    predicted = np.stack(distances).argmin(0)
    np.save(options.predictions, predicted)
"""


def submission(
    path: Path, training: str = "", test: str = "", name: str | None = None, before: str = "", **manifest: object
) -> Path:
    """A zip with two honest scripts, and with code added at the end of each, or `before` the training."""
    facts = {"interface": 1, "name": name or path.stem, "licence": "MIT", "authors": "a stranger", **manifest}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("training.py", textwrap.dedent(before) + textwrap.dedent(TRAIN) + textwrap.dedent(training))
        archive.writestr("test.py", textwrap.dedent(TEST) + textwrap.dedent(test))
        archive.writestr("manifest.json", json.dumps(facts))
        archive.writestr("DESCRIPTION.md", "# Means\n")
    return path


@pytest.fixture(scope="session", autouse=True)
def few_packages() -> Iterator[None]:
    """These submissions import numpy alone: a judge in this process does not try torch and timm each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox_check, "PACKAGES", ("numpy",))
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Four classes of noisy colours, easy enough to be told apart by their means."""
    folder = tmp_path_factory.mktemp("secret")
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (4, 1, 1, 3))
    paths = {}
    for name, count in (("train", 80), ("test", 60)):
        labels = np.sort(generator.integers(0, 4, count))
        images = np.clip(colours[labels] + generator.normal(0, 60, (count, 32, 32, 3)), 0, 255).astype(np.uint8)
        paths[name] = folder / f"{name}.npz"
        np.savez(paths[name], images=images, labels=labels)
    return SimpleNamespace(folder=folder, **paths)


def command(data: SimpleNamespace, out: Path, *zips: Path, more: tuple[str, ...] = ()) -> list[str]:
    """The arguments of `judge`, with small limits."""
    words = ["judge", *map(str, zips), "--train", str(data.train), "--test", str(data.test), "--out", str(out)]
    words += ["--budget", "5", "--test-budget", "4", "--drift", "1000"]
    return [*words, "--memory", "600M", "--disk", "64M", "--processes", "64", "--cpus", "1", *more]


def judge(data: SimpleNamespace, out: Path, *zips: Path, more: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "speedtrain", *command(data, out, *zips, more=more)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def steady_machine() -> Iterator[None]:
    """A machine of constant speed: the probes, which take a second per run, are left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_speed, "measure", lambda cpus: 1.0)
        yield


def board_of(out: Path) -> dict:
    """leaderboard.json, its entries by name."""
    board = json.loads((out / "leaderboard.json").read_text())
    board["by_name"] = {entry["name"]: entry for entry in board["entries"]}
    return board


needs_bwrap = pytest.mark.skipif(not works(), reason="bubblewrap cannot make a sandbox here")
SANDBOX = "bwrap" if works() else "none"
