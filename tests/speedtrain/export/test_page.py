"""The page in a browser without a network: the same answers as the model's, on a phone's screen too."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, browser
from labelled_images import save_npz, some_images
from PIL import Image
from small_model import save_model

from speedtrain import load
from speedtrain.export.export import export
from speedtrain.export.page import find_runtime, write_page

RUNTIME = os.environ.get("ONNXRUNTIME_WEB")
"""Folder of the npm package onnxruntime-web."""

ANSWERED = """new Promise(done => {
  const look = () => {
    const status = document.getElementById("status")?.textContent ?? "loading";
    /loading|looking|^$/.test(status) ? setTimeout(look, 20) : done(status);
  };
  look();
})"""

DROP_TWO = """(() => {
  const dropped = new DataTransfer();
  dropped.items.add(document.getElementById("file").files[0]);
  dropped.items.add(new File(["no image"], "second.png"));
  document.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped}));
})()"""


def photographs(folder: Path) -> dict[str, Path]:
    """What a phone and a computer may have: each file another way through the page's own reading."""
    chance = np.random.default_rng(0)
    smooth = Image.fromarray(some_images(1, 9, 12, 3)[0]).resize((160, 120), Image.Resampling.BICUBIC)
    see_through = smooth.resize((90, 70)).convert("RGBA")
    see_through.putalpha(Image.fromarray(chance.integers(0, 256, (70, 90), dtype=np.uint8)))
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {name: folder / name for name in ("wide.png", "tall.webp", "turned.jpg", "clear.png", "tiny.png", "a.gif")}
    smooth.save(files["wide.png"])
    smooth.rotate(90, expand=True).save(files["tall.webp"], lossless=True)
    smooth.save(files["turned.jpg"], exif=turned, quality=90)
    see_through.save(files["clear.png"])
    Image.fromarray(some_images(1, 11, 7)[0]).save(files["tiny.png"])
    smooth.quantize(16).save(files["a.gif"])
    return files


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("onnx")
    images = save_npz(folder / "images.npz", images=some_images(4, 32, 32, 3))
    return export(save_model(folder / "weights.safetensors"), "onnx", images=images)[0].read_bytes()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.skipif(RUNTIME is None, reason="ONNXRUNTIME_WEB names no folder of the npm package onnxruntime-web")
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_it_answers_as_the_model_without_a_network(tmp_path: Path, network: bytes, fit: str) -> None:
    model = load(save_model(tmp_path / "weights.safetensors", fit=fit))  # the same weights
    page = tmp_path / "model.html"
    write_page(page, model, network, find_runtime(RUNTIME))
    with browser(tmp_path / "profile") as tab:
        tab.call("Emulation.setDeviceMetricsOverride", width=375, height=700, deviceScaleFactor=1, mobile=True)
        tab.call("Page.navigate", url=page.as_uri())
        assert tab.evaluate(ANSWERED) == "ready"
        for name, file in photographs(tmp_path).items():
            tab.evaluate("document.getElementById('status').textContent = ''")
            tab.choose("#file", file)
            status = tab.evaluate(ANSWERED)
            answer: list[Any] = tab.evaluate(
                "[...document.querySelectorAll('#answer li')].map(row => [row.firstChild.textContent,"
                " Number(row.dataset.probability)])"
            )
            ours = model.predict(file, augmented=False).top(3)
            assert [label for label, _ in answer] == [label for label, _ in ours], name
            assert [share for _, share in answer] == pytest.approx([share for _, share in ours], abs=1e-3), name
            assert status == f"{name}: {ours[0][0]}"
        tab.evaluate("document.getElementById('status').textContent = ''")
        tab.evaluate(DROP_TWO)
        assert tab.evaluate(ANSWERED) == f"{name} (the first of 2 files): {ours[0][0]}"
        (tmp_path / "notes.png").write_text("no image")
        tab.evaluate("document.getElementById('status').textContent = ''")
        tab.choose("#file", tmp_path / "notes.png")
        assert "notes.png cannot be read as an image" in tab.evaluate(ANSWERED)
        assert tab.evaluate("document.getElementById('shown').hidden")  # nothing of the image before it is left
        assert tab.evaluate("document.getElementById('answer').children.length") == 0
        tab.evaluate("document.getElementById('status').textContent = ''")
        tab.choose("#file", file)
        assert tab.evaluate(ANSWERED) == f"{name}: {ours[0][0]}"
        assert not tab.evaluate("document.getElementById('shown').hidden")
        assert not tab.evaluate("document.documentElement.scrollWidth > innerWidth")
        asked = {re.sub("[0-9a-f-]{36}", "", address) for address in tab.requests}
        assert asked <= {page.as_uri(), "blob:null/"}
