"""What the tests of data share: no network but this machine."""

from pathlib import Path

import pytest
from labelled_images import CLOSED_PORT

from speedtrain.data import cifar10


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers of these tests are on this machine."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No CIFAR-10 on disk, none to be had; the folder where it is looked for."""
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setattr(cifar10, "CIFAR10_URL", CLOSED_PORT)
    monkeypatch.setenv("SPEEDTRAIN_DATA", str(root))
    monkeypatch.chdir(root)
    return root
