"""The trained model in a person's hands: every form of images, as training saw them, and what cannot be read."""

import io
import re
import tracemalloc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from labelled_images import error_of, save_folder, save_npz, some_images
from PIL import Image
from small_model import CLASSES, save_model

from speedtrain import load
from speedtrain.data import load_images
from speedtrain.data.image_files import Reading
from speedtrain.data.stream import FEW, open_images
from speedtrain.machine import available_cores
from speedtrain.model import inference
from speedtrain.model.predictions import Prediction, Predictions
from speedtrain.model.trained import TrainedModel
from speedtrain.model.weights import save_weights


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return load(save_model(tmp_path_factory.mktemp("model") / "copied.safetensors"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five images that are not square, the third of which is damaged."""
    folder = save_folder(tmp_path_factory.mktemp("photographs"), {"new": some_images(5, 40, 50, 3)}) / "new"
    (folder / "0002.png").write_bytes((folder / "0002.png").read_bytes()[:200])
    return folder


def several(answer: Prediction | Predictions) -> Predictions:
    assert isinstance(answer, Predictions)
    return answer


def one(answer: Prediction | Predictions) -> Prediction:
    assert isinstance(answer, Prediction)
    return answer


def by_hand(model: TrainedModel, images: np.ndarray) -> np.ndarray:
    """Of images [N, side, side, 3], from the parts that a person's own code would use, view by view."""
    with torch.inference_mode():
        x = model.preprocess(images)
        pad = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
        side = x.shape[-1]
        views = [(x, 1 / 2), (pad[..., :side, :side], 1 / 4), (pad[..., 2:, 2:], 1 / 4)]
        logits = sum(share * (model.network(v) + model.network(v.flip(3))) / 2 for v, share in views)
        assert isinstance(logits, torch.Tensor)
        return logits.softmax(1).numpy()


def test_as_its_parts_by_hand(model: TrainedModel) -> None:
    images = some_images(inference.MANY, 32, 32, 3)
    answer = several(model.predict(images))
    assert np.ptp(answer.probabilities, axis=0).max() > 0.05  # the images differ, and their answers do
    bound = inference.BOUNDS[answer.precision]  # bf16 where the processor has AMX
    np.testing.assert_allclose(answer.probabilities, by_hand(model, images), atol=bound)
    np.testing.assert_allclose(model.predict(images, exact=True).probabilities, by_hand(model, images), atol=1e-6)
    plain = several(model.predict(images, augmented=False))
    with torch.inference_mode():
        logits = model.network(model.preprocess(images))
    np.testing.assert_allclose(plain.probabilities, logits.softmax(1).numpy(), atol=bound)
    assert answer.labels == [CLASSES[best] for best in answer.probabilities.argmax(1)]


def test_every_form_of_the_same_images(model: TrainedModel, tmp_path: Path) -> None:
    images = some_images(4, 40, 50, 3)
    folder = save_folder(tmp_path, {"few": images}) / "few"
    paths = sorted(folder.iterdir())
    expected = by_hand(model, load_images(folder)[0])
    frame = pd.DataFrame({"image": [str(path) for path in paths]})

    def generator() -> Iterator[Any]:
        yield paths[0]
        yield Image.fromarray(images[1])
        yield images[2]
        yield str(paths[3])

    forms: dict[str, Any] = {
        "folder": folder,
        "class folders": str(tmp_path),
        "npz": save_npz(tmp_path / "few.npz", images=images),
        "paths": paths,
        "strings": tuple(map(str, paths)),
        "array": images,
        "list of arrays": list(images),
        "floats": (images / 255).astype(np.float32),
        "wide": images.astype(np.uint16) * 257,
        "PIL": [Image.fromarray(image) for image in images],
        "column": frame["image"],
        "mixture": generator(),
        "tensor": torch.tensor(images),
    }
    for name, form in forms.items():
        atol = 0.02 if name == "wide" else 1e-5  # 257 v is rounded anew
        np.testing.assert_allclose(several(model.predict(form)).probabilities, expected, atol=atol, err_msg=name)
    singles: dict[str, Any] = {"path": str(paths[3]), "PIL": Image.fromarray(images[3]), "array": images[3]}
    for name, form in singles.items():
        np.testing.assert_allclose(one(model.predict(form)).probabilities, expected[3], atol=1e-5, err_msg=name)
    assert several(model.predict(folder)).files == [path.name for path in paths]
    assert several(model.predict(tmp_path)).files == [f"few/{path.name}" for path in paths]
    assert several(model.predict(paths)).files == [path.as_posix() for path in paths]
    assert one(model.predict(paths[1])).file == paths[1].name
    grey = some_images(2, 40, 50)
    np.testing.assert_allclose(
        one(model.predict(grey[0])).probabilities, several(model.predict(grey)).probabilities[0], atol=1e-5
    )
    assert len(several(model.predict(images[:0]))) == len(several(model.predict([]))) == 0


def test_unreadable_files_are_marked_in_their_place(model: TrainedModel, photographs: Path) -> None:
    answer = several(model.predict(photographs))
    assert [prediction.problem is None for prediction in answer] == [True, True, False, True, True]
    assert list(answer.problems) == [2]
    assert np.isnan(answer.probabilities[2]).all()
    assert not np.isnan(answer.probabilities[[0, 1, 3, 4]]).any()
    again = several(model.predict(sorted(photographs.iterdir(), reverse=True)))
    np.testing.assert_allclose(again.probabilities[::-1], answer.probabilities, atol=1e-6)
    nothing = several(model.predict([photographs / "0002.png", "nowhere.png", f"{'long' * 99}.png"]))
    assert list(nothing.problems) == [0, 1, 2]
    assert nothing.labels == [None] * 3
    error = error_of(model.predict, photographs / "0002.png")
    assert "0002.png: cannot be read as an image" in error
    assert "0002.png: cannot be read as an image" in error_of(model.preprocess, photographs)
    all_of_them = error_of(model.preprocess, [photographs / "0002.png", photographs / "0000.png", "nowhere.png"])
    assert re.search(r"^2 files cannot be read as images: .*0002.png \(.*nowhere.png \(", all_of_them)


@pytest.mark.parametrize("gap", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, ""], ids=repr)
def test_gaps_are_marked_in_their_place(model: TrainedModel, photographs: Path, gap: Any) -> None:
    file, image = photographs / "0000.png", some_images(1, 32, 32, 3)[0]
    answer = several(model.predict([gap, file, photographs / "0002.png", image, gap]))
    assert list(answer.problems) == [0, 2, 4]
    assert answer.problems[0] == answer.problems[4] == "no file is named"
    assert list(answer.files) == [None, file.as_posix(), (photographs / "0002.png").as_posix(), None, None]
    np.testing.assert_allclose(answer[1].probabilities, one(model.predict(file)).probabilities, atol=1e-5)
    np.testing.assert_allclose(answer[3].probabilities, one(model.predict(image)).probabilities, atol=1e-5)
    for given in ([str(file), gap], [gap, gap]):
        column = several(model.predict(pd.DataFrame({"image": given})["image"]))
        assert column.problems[1] == "no file is named"
    assert "image 1: cannot be read as an image (no file is named)" in error_of(model.preprocess, [image, gap])


def test_addresses_among_files_are_marked_in_their_place(model: TrainedModel, photographs: Path) -> None:
    answer = several(model.predict([str(photographs / "0000.png"), "https://example.org/cat.jpg"]))
    assert answer.problems == {1: "addresses of the web are not read: download the file first"}


def test_all_images_below_a_folder(model: TrainedModel, tmp_path: Path) -> None:
    images = some_images(4, 32, 32, 3)
    save_folder(tmp_path, {"10": images[1:2], "9": images[2:3], "9/train/deeper": images[3:]})
    Image.fromarray(images[0]).save(tmp_path / "x.png")
    answer = several(model.predict(str(tmp_path)))
    assert answer.files == ["x.png", "9/0000.png", "9/train/deeper/0000.png", "10/0000.png"]
    expected = several(model.predict(images[[0, 2, 3, 1]])).probabilities
    np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_images_are_fitted_as_in_training(tmp_path: Path, fit: Any) -> None:
    model = load(save_model(tmp_path / "w.safetensors", 48, fit))
    folder = save_folder(tmp_path / "images", {"a": some_images(2, 90, 60, 3)}) / "a"
    expected = load_images(folder, side=48, fit=fit)[0]
    np.testing.assert_allclose(
        model.preprocess(folder).numpy(),
        model.members[0].classifier.normalise(torch.tensor(expected)).numpy(),
        atol=1e-6,
    )


def test_large_sets_come_in_parts(model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speedtrain.data.stream.PART", 100)
    images = some_images(430, 32, 32, 3)
    counts: list[tuple[int, int]] = []
    answer = several(model.predict(images, progress=lambda done, total: counts.append((done, total))))
    np.testing.assert_allclose(answer.probabilities, by_hand(model, images), atol=1e-4)
    assert counts[-1] == (430, 430)
    assert counts == sorted(counts)
    answer = several(model.predict(iter(list(images)), progress=lambda done, total: counts.append((done, total))))
    np.testing.assert_allclose(answer.probabilities, by_hand(model, images), atol=1e-4)
    assert counts[-1] == (430, 430)


def test_memory_does_not_grow_with_the_number_of_images(model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a generator of images, each of which takes 3 KiB."""
    part = 128
    monkeypatch.setattr("speedtrain.data.stream.PART", part)

    def peak(count: int) -> int:
        tracemalloc.start()
        answer = several(model.predict((np.zeros((32, 32, 3), np.uint8) for _ in range(count)), augmented=False))
        assert len(answer) == count
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return taken

    assert peak(8 * part) < peak(2 * part) + 4 * part * 3072  # all of them would take six parts more


def test_few_photographs_are_held_at_once(model: TrainedModel, photographs: Path) -> None:
    """Of a generator: as opened by Pillow, each keeps its file open until it is read."""
    held = 0

    def opened() -> Iterator[Image.Image]:
        nonlocal held
        for _ in range(200):
            image = Image.open(photographs / "0000.png")
            weakref.finalize(image, released)
            held += 1
            assert held <= 2 * FEW * available_cores()
            yield image

    def released() -> None:
        nonlocal held
        held -= 1

    assert len(several(model.predict(opened(), augmented=False))) == 200


def test_from_several_threads_at_once(model: TrainedModel, photographs: Path) -> None:
    images = some_images(80, 32, 32, 3)
    expected, of_files = model.predict(images).probabilities, model.predict(photographs).probabilities
    limit = Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(6) as pool:
        arrays = [pool.submit(model.predict, images) for _ in range(6)]
        files = [pool.submit(model.predict, photographs) for _ in range(6)]
        for future in arrays:
            np.testing.assert_allclose(future.result().probabilities, expected, atol=1e-6)
        for future in files:
            np.testing.assert_allclose(future.result().probabilities, of_files, atol=1e-6)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_pillow_keeps_its_own_limit_while_a_part_is_used(photographs: Path) -> None:
    parts = open_images(sorted(photographs.iterdir()), Reading(32, "crop")).parts
    assert next(parts).readable.any()
    assert Image.MAX_IMAGE_PIXELS  # and not until somebody takes the rest of the parts


def test_a_quick_way_that_disagrees_is_not_taken(model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    images = some_images(inference.MANY, 32, 32, 3)
    exact = model.predict(images, exact=True).probabilities
    monkeypatch.setattr(inference, "fastest_precision", lambda device: "bf16")
    answer = several(model.predict(images, progress=lambda done, total: None))  # also where it comes in slices
    assert answer.precision == "bf16"
    assert 0 < np.abs(answer.probabilities - exact).max() < inference.BOUNDS["bf16"] + 0.01
    assert several(model.predict(images, exact=True)).precision == "fp32"
    assert several(model.predict(images[: inference.MANY - 1])).precision == "fp32"  # too few to compare

    monkeypatch.setitem(inference.BOUNDS, "bf16", 1e-7)
    assert several(model.predict(images)).precision == "fp32"

    def broken(network: torch.nn.Module) -> torch.nn.Module:
        return torch.nn.Sequential(network, torch.nn.Softmax(1))

    monkeypatch.setattr(inference, "fold_norms", broken)
    answer = several(model.predict(images))
    np.testing.assert_array_equal(answer.probabilities, exact)


def test_what_cannot_be_predicted(model: TrainedModel, tmp_path: Path) -> None:
    frame = pd.DataFrame({"image": ["a.png"], "label": ["cat"]})
    tmp_path.with_name("notes.txt").write_text("photographs")
    cases: list[tuple[Any, str]] = [
        (17, "images is a int"),
        (frame, "a whole table given"),
        (tmp_path / "nowhere.png", "no such file"),
        ([some_images(1, 8, 8, 3)[0], 5], "image 1 is int64"),
        ([some_images(1, 8, 8, 3)[0].astype(np.float32)], "image 0 is float32"),
        (np.zeros((2, 8, 8, 4), np.uint8), "4 channels"),
        ([tmp_path], "a folder among files"),
        (tmp_path, "no images in this folder"),
        (np.zeros((3, 8, 9), np.uint8), "its channels first, or 3 grey ones"),
        (np.zeros((8, 9, 4), np.uint8), "one image with transparency, or 8 grey ones: give PIL's Image.fromarray"),
        (np.zeros((8, 9, 2), np.float32), "taken are [H, W], [H, W, 1] and [H, W, 3], and [N, H, W, 1]"),
        (np.float64("nan"), "images is a float64"),
        (np.array(3), "images is a ndarray"),
        (b"JPEG", "this is bytes: give the path of a file"),
        (["a.png", b"JPEG"], "image 1 is bytes: give the path of a file"),
        (io.BytesIO(), "this is an open file (BytesIO): give its path"),
        ([io.StringIO()], "image 0 is an open file (StringIO): give its path"),
        ("digits", "digits: no such file or folder: give an image file, a folder of images or an .npz"),
        ("https://example.org/cat.jpg", "addresses of the web are not read: download the file first"),
        (tmp_path.with_name("notes.txt"), "neither an image that can be read, nor an .npz: give an image file"),
        (torch.zeros(2, 8, 8, 3, requires_grad=True), "this is not an array"),
    ]
    for images, expected in cases:
        assert expected in error_of(model.predict, images)


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    assert "there is no weights.safetensors" in error_of(load, tmp_path)
    assert "there is no weights.safetensors" in error_of(load, tmp_path / "none.safetensors")
    path = save_model(tmp_path / "w.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    assert "not a readable weights file" in error_of(load, path)
    save_weights(path, {"a": torch.zeros(1)}, {"classes": CLASSES})
    assert "not the weights of a run" in error_of(load, path)
