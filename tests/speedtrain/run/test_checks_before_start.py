"""Options that change nothing are said, and so is a disk without room for the training images."""

import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from labelled_images import error_of, some_images, some_labels

from speedtrain.config import resolve
from speedtrain.data import Data, Images, mapped
from speedtrain.run.checks_before_start import unused_options
from speedtrain.run.execute import execute
from speedtrain.run.progress import Display


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data_root": "there", "data": "digits"}, "--data-root has no effect on --data digits"),
        ({"data_root": "there", "data": "torchvision:SVHN"}, None),
        ({"data_root": "there"}, None),
        ({"columns": {"label": "breed"}, "data": "photos"}, "--columns has no effect on --data photos"),
        ({"columns": {"label": "breed"}, "data": "Labels.CSV"}, None),
        ({"columns": {"label": "breed"}, "data": "photos", "test": "test.csv"}, None),
        ({"columns": {"label": "breed"}, "data": "arrays"}, None),  # may be a data frame
        ({"model": "timm:resnet18", "width": 8}, "width has no effect on timm:resnet18"),
        ({"model": "timm:resnet18.a1_in1k"}, "a1_in1k names pretrained weights, which are not used"),
    ],
)
def test_options_without_effect(options: dict[str, Any], said: str | None) -> None:
    warnings = unused_options(resolve(budget=9, **options), options)
    assert len(warnings) == (said is not None)
    assert all(warning.startswith("warning: ") and str(said) in warning for warning in warnings)


@pytest.mark.parametrize("in_file", [False, True])
def test_training_images_without_room_on_the_disk_are_refused_before_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_file: bool
) -> None:
    """Mapped images go to the disk for large files, others to the folder that the system names."""
    images = some_images(300, 64, 64, 3)
    if in_file:
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr(mapped, "free_memory", lambda: 0)
        images = mapped.take(mapped.join(images[:1], images[1:]), images[:, 0, 0, 0] >= 0)
    folder = tmp_path if in_file else tempfile.gettempdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=300 * 3 * 30**2, total=1 << 30))
    monkeypatch.setattr(mapped, "is_in_memory", lambda path: False)
    train = Images("set", images, some_labels(300), ("a", "b", "c"))
    config, out = resolve(budget=9, settings={"width": 8}), tmp_path / "run"
    message = error_of(execute, config, Data(train, train, False, ()), out, Display(quiet=True), off_clock={})
    assert message.startswith(
        f"{folder}: no room for 300 images of 64×64 pixels: they need 4 MiB there, and 1 are free"
    )
    assert "give --side 30, fewer images" in message
    assert not out.exists()
