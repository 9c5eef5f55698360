"""Exported files in their own runtimes, beside the model that they came from."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from labelled_images import error_of, save_folder, save_npz, some_images
from small_model import CLASSES, TRICKS, save_model

from speedtrain import load
from speedtrain.cli import main
from speedtrain.export import export as exporting
from speedtrain.export.export import export, prove
from speedtrain.model.trained import TrainedModel

PAGE = Path(__file__).parents[3] / "docs/model.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("run") / "weights.safetensors", fit="pad")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_npz(tmp_path_factory.mktemp("images") / "images.npz", images=some_images(60, 32, 32, 3))


@pytest.fixture(scope="module")
def onnx(weights: Path, images: Path) -> Path:
    return export(weights, "onnx", images=images)[0]


def expected(model: TrainedModel, images: np.ndarray, augmented: bool) -> np.ndarray:
    return model.predict(images, augmented=augmented, exact=True).probabilities


def check_onnx(path: Path, model: TrainedModel, augmented: bool) -> onnxruntime.InferenceSession:
    session = onnxruntime.InferenceSession(path)
    for count in (1, 7):
        some = some_images(count, model.side, model.side, 3, seed=count)
        (answer,) = session.run(["probabilities"], {"images": some})
        np.testing.assert_allclose(answer, expected(model, some, augmented), atol=1e-5)
    return session


def test_onnx(onnx: Path, weights: Path) -> None:
    assert onnx == weights.with_name("model.onnx")
    session = check_onnx(onnx, load(weights), augmented=False)
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert taken.type == "tensor(uint8)"
    assert taken.shape[1:] == [32, 32, 3]
    assert isinstance(taken.shape[0], str)  # any number
    assert given.shape[1] == 3
    facts = {name: json.loads(fact) for name, fact in session.get_modelmeta().custom_metadata_map.items()}
    assert facts["classes"] == CLASSES
    assert (facts["side"], facts["fit"], facts["augmented"]) == (32, "pad", False)
    assert facts["network"]["tricks"] == TRICKS


def test_onnx_with_augmentation_of_large_images(tmp_path: Path) -> None:
    weights = save_model(tmp_path / "weights.safetensors", 130, tta="mirror")
    path, proof = export(weights, "onnx", tmp_path / "m.onnx", augmented=True, images=save_photographs(tmp_path))
    check_onnx(path, load(weights), augmented=True)
    assert proof.images == 3
    assert proof.difference < 1e-5
    assert proof.labels_differ == 0


def save_photographs(folder: Path) -> Path:
    return save_folder(folder / "photographs", {"a": some_images(3, 150, 200, 3)})


def test_timm(tmp_path: Path, images: Path) -> None:
    weights = save_model(tmp_path / "weights.safetensors", model="timm:resnet10t")
    check_onnx(export(weights, "onnx", images=images)[0], load(weights), augmented=False)


def test_torch(weights: Path, images: Path, tmp_path: Path) -> None:
    path, _ = export(weights, "torch", tmp_path / "m.pt2", images=images)
    facts = {"speedtrain.json": ""}
    network = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=facts).module()
    some = some_images(5, 32, 32, 3)
    with torch.no_grad():
        answer = network(torch.tensor(some)).numpy()
    np.testing.assert_allclose(answer, expected(load(weights), some, False), atol=1e-5)
    assert json.loads(facts["speedtrain.json"])["classes"] == CLASSES
    assert path.stat().st_size < 2 * weights.stat().st_size + 200_000  # the network is in it once


def example(what: str) -> str:
    """The first one with these words in it."""
    return next(example for example in EXAMPLES if what in example)


@pytest.mark.parametrize("channels", [3, 4])  # with transparency too
def test_the_lines_of_the_documentation_run_without_torch(channels: int, onnx: Path, tmp_path: Path) -> None:
    """As a person types them: with onnxruntime, numpy and Pillow alone."""
    lines = example("onnxruntime")
    (tmp_path / "model.onnx").write_bytes(onnx.read_bytes())
    photograph = next((save_folder(tmp_path, {"a": some_images(1, 60, 80, channels)}) / "a").iterdir())
    photograph.rename(tmp_path / "photo.jpg")  # a PNG: programs go by the content
    block = "import sys\nsys.modules |= dict.fromkeys(['torch', 'speedtrain', 'tricks', 'timing'])\n"
    command = [sys.executable, "-c", block + lines]
    seen = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    label, probability = seen.split()
    model = load(onnx.with_name("weights.safetensors"))
    answer = model.predict(tmp_path / "photo.jpg", augmented=False)
    assert answer.top(1) == [(label, pytest.approx(float(probability), abs=1e-3))]


def test_the_lines_of_the_documentation_run_a_program_of_torch(
    onnx: Path, weights: Path, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx.read_bytes())
    export(weights, "torch", tmp_path / "model.pt2", images=images)
    photograph = next((save_folder(tmp_path, {"a": some_images(1, 60, 80, 3)}) / "a").iterdir())
    photograph.rename(tmp_path / "photo.jpg")
    show = "print(json.loads(stored['speedtrain.json'])['classes'] == facts['classes'], probabilities.max().item())\n"
    command = [sys.executable, "-c", example("onnxruntime") + example("model.pt2") + show]
    seen = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    assert seen[2] == "True"
    assert float(seen[3]) == pytest.approx(float(seen[1]), abs=1e-4)


def test_the_lines_of_the_documentation_load_and_predict(weights: Path, tmp_path: Path) -> None:
    lines = example("from speedtrain import load") + example("model.network(")
    lines += "print(logits.requires_grad, tuple(logits.shape))\n"
    (tmp_path / "runs/first").mkdir(parents=True)
    (tmp_path / "runs/first/weights.safetensors").write_bytes(weights.read_bytes())
    (save_folder(tmp_path, {"new": some_images(3, 60, 80, 3)}) / "new" / "0002.png").rename(tmp_path / "photo.jpg")
    command = [sys.executable, "-c", lines]
    seen = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(seen) == 4
    assert seen[0].startswith("[('")
    assert seen[3] == "False (1, 3)"
    assert [line.split()[0] for line in seen[1:3]] == ["0000.png", "0001.png"]


def test_the_best_of_several_turns_is_reported(weights: Path) -> None:
    model, some = load(weights), some_images(7, 32, 32, 3)
    answer, calls = expected(model, some, False), 0

    def run(batch: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        time.sleep(0 if calls % 3 == 0 else 0.14)  # seconds; another program has the cores most of the time
        return answer

    proof = prove(model, run, some, augmented=False)
    assert proof.passes
    assert proof.batch_size == 7
    assert 0 < proof.milliseconds < 20


def test_the_command_says_how_large_the_batches_were(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = save_npz(tmp_path / "images.npz", images=some_images(7, 32, 32, 3))
    options = ["--run", str(weights), "--format", "TORCH", "--out", str(tmp_path / "m.pt2"), "--images", str(images)]
    assert main(["export", *options]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\d ms per image, the model itself [\d.]+ ms \(batches of 7\)", printed)


def test_a_file_that_answers_otherwise_is_not_written(
    weights: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.pt2"
    path.write_text("before")

    def wrong(file: Path) -> Any:
        return lambda some: np.roll(expected(load(weights), some, False), 1, axis=1)

    monkeypatch.setattr(exporting, "run_torch", wrong)
    error = error_of(export, weights, "torch", path, images=images)
    assert "not written, since it does not answer as the model does" in error
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_export_that_is_stopped_leaves_nothing(
    weights: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(exporting, "write_torch", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    command = ["export", "--run", str(weights), "--format", "torch", "--images", str(images)]
    assert main([*command, "--out", str(tmp_path / "m.pt2")]) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_network_that_cannot_be_exported_gets_one_line(
    weights: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a data-dependent\nbranch")

    monkeypatch.setattr(exporting, "export_program", fail)
    error = error_of(export, weights, "torch", images=images)
    assert "torch cannot export this network (RuntimeError: a data-dependent branch)" in error


def test_bad_input(weights: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--format tflite: there is onnx, torch, html" in error_of(export, weights, "tflite")
    assert "name it so" in error_of(export, weights, "onnx", tmp_path / "m.pt2", images=images)
    assert "give --images" in error_of(export, weights, "torch")
    assert "cannot be written" in error_of(export, weights, "torch", tmp_path / "no" / "m.pt2", images=images)
    monkeypatch.chdir(tmp_path)
    assert "npm install onnxruntime-web" in error_of(export, weights, "html", images=images)
    error = error_of(export, weights, "html", images=images, runtime=tmp_path)
    assert "not the npm package onnxruntime-web" in error
    monkeypatch.setattr("speedtrain.export.formats.find_spec", lambda name: None)
    assert 'pip install "speedtrain[export]"' in error_of(export, weights, "onnx", tmp_path / "m.onnx", images=images)
    assert main(["export", "--run", "nowhere", "--format", "onnx"]) == 2
