"""Training that starts from given weights: of a run, of a file, of timm."""

import hashlib
import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import timm
import torch
from labelled_images import error_of, some_images
from lightning.pytorch.loggers import CSVLogger
from small_model import CLASSES, save_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from speedtrain import load, train
from speedtrain.ablation.design import make_design
from speedtrain.cli import main
from speedtrain.config import Config, resolve
from speedtrain.data import load_data
from speedtrain.model.load import read_run
from speedtrain.model.weights import load_weights, save_weights
from speedtrain.run.api import replay
from speedtrain.run.seen_images import count_seen_images, notes_on_seen_images, write_seen_images
from speedtrain.run.starting_weights import read_starting_weights
from speedtrain.starting_point import find_trained_run
from speedtrain.submission.package import package
from speedtrain.training.kept_weights import kept_weights

TIMM = "timm:resnet10t"


def starting(**options: Any) -> Config:
    return resolve(budget=60, **options)


def tensors_of(config: Config, classes: tuple[str, ...] | list[str] = ("a", "b")) -> dict[str, torch.Tensor]:
    start = read_starting_weights(config, classes)
    assert start is not None
    return safetensors.torch.load(start.file)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save_model(tmp_path / "weights.safetensors", side=64, fit="squash")


def test_the_network_and_its_images_are_the_runs_and_the_recipe_is_finetune(weights: Path) -> None:
    config, finetune = starting(start_from=weights), resolve(recipe="finetune", budget=60)
    assert (config.model, config.width, config.head_scale) == ("resnet9", 4, 20.0)
    assert (config.side, config.fit) == (64, "squash")
    assert config.schedule == finetune.schedule
    assert config.tricks["celu"] == {"alpha": 0.3}
    assert list(config.tricks)[:2] == ["patch_whitening", "celu"]
    assert config.tricks.keys() - {"patch_whitening", "celu"} == finetune.tricks.keys()
    assert Path(config.start_from or "").is_absolute()
    again = resolve(recipe="auto", budget=60, start_from=weights)
    assert again.schedule == resolve(budget=60).schedule
    assert again.tricks["celu"] == {"alpha": 0.3}


def test_a_saved_configuration_means_the_same(weights: Path, tmp_path: Path) -> None:
    config = starting(start_from=weights)
    (tmp_path / "config.yaml").write_text(config.as_yaml())
    assert resolve(recipe=tmp_path / "config.yaml") == config


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"settings": {"width": 8}}, "width 8"),
    ({"settings": {"side": 32}}, "side 32"),
    ({"model": TIMM}, "model timm:resnet10t"),
    ({"without": ["celu"]}, "celu"),
    ({"with_tricks": ["ghost_batch_norm"]}, "ghost_batch_norm"),
    ({"settings": {"celu.alpha": 1.0}}, "celu"),
    ({"tricks": ["flip"]}, "must stay on"),
    ({"settings": {"pretrained": True}}, "one of them"),
]


@pytest.mark.parametrize(("options", "words"), OTHERS, ids=lambda value: value if isinstance(value, str) else "")
def test_another_network_than_the_runs_is_refused(options: dict[str, Any], words: str, weights: Path) -> None:
    assert words in error_of(starting, start_from=weights, **options)


def test_what_cannot_be_started_from_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no tensors")
    assert "no such run directory or file" in error_of(starting, start_from=tmp_path / "absent")
    assert "nothing" not in error_of(starting, start_from=tmp_path / "empty")
    assert "timm:" in error_of(starting, start_from=tmp_path / "text.txt")
    assert "is empty" in error_of(starting, start_from="")
    assert "timm" in error_of(starting, settings={"pretrained": True})
    for value in (True, 0, ["a"]):
        assert "must be text or null" in error_of(starting, settings={"start_from": value})
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "weights.safetensors").write_bytes(b"half of a file")
    assert "cannot be read as the weights of a run" in error_of(starting, start_from=damaged)
    assert "not a readable weights file" in error_of(starting, start_from=damaged / "weights.safetensors")
    save_weights(tmp_path / "odd.safetensors", {}, {"classes": ["a"], "network": {"model": "resnet9"}})
    assert "not the weights of a run" in error_of(starting, start_from=tmp_path / "odd.safetensors")
    tagged = starting(start_from=tmp_path / "text.txt", model=f"{TIMM}.nonsense")
    assert "no weights 'nonsense'" in error_of(read_starting_weights, tagged, CLASSES)
    frozen = resolve(budget=60, recipe="auto", with_tricks=["freeze_trunk"], settings={"freeze_trunk.lower": 0.5})
    assert "--from" in error_of(read_starting_weights, frozen, CLASSES)
    assert "--from" in error_of(package, tmp_path / "a.zip", recipe="finetune")
    text = starting(start_from=tmp_path / "text.txt", model=TIMM)
    assert "not a file of tensors" in error_of(read_starting_weights, text, CLASSES)
    assert main(["--budget", "60", "--data", "digits", "--from", str(tmp_path / "absent")]) == 2


def test_the_head_is_kept_for_the_same_classes_in_the_order_they_have_now(weights: Path, tmp_path: Path) -> None:
    config = starting(start_from=weights)
    now = ("owl", "cat", "dog")
    state = tensors_of(config, now)
    before, facts = load_weights(weights)
    assert state.keys() == before.keys()
    save_weights(tmp_path / "now.safetensors", state, {**facts, "classes": list(now)})
    images = some_images(5, 64, 64, 3)
    old, new = load(weights).predict_all(images), load(tmp_path / "now.safetensors").predict_all(images)
    np.testing.assert_allclose(new.probabilities, old.probabilities[:, [CLASSES.index(name) for name in now]])


@pytest.mark.parametrize("classes", [("cat", "dog"), ("cat", "dog", "newt"), ("0", "1", "2", "3")])
def test_the_head_is_new_for_other_classes(classes: tuple[str, ...], weights: Path) -> None:
    before = load_weights(weights)[0]
    assert before.keys() - tensors_of(starting(start_from=weights), classes).keys() == {"network.head.weight"}


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(TIMM.removeprefix("timm:"), num_classes=1000)


def save(state: dict[str, Any], path: Path) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


COUNTER = "num_batches_tracked"
FORMS: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "name": (".safetensors", lambda state: state),
    "name, nested": (".pth", lambda state: {"state_dict": {f"module.{name}": t for name, t in state.items()}}),
    "order and shape": (".pth", lambda state: {f"_other_{i}": t for i, t in enumerate(state.values())}),
    "name, no counters": (".pth", lambda state: {n: t for n, t in state.items() if COUNTER not in n}),
    "order and shape, no counters": (
        ".pth",
        lambda state: {f"_{i}": t for i, (n, t) in enumerate(state.items()) if COUNTER not in n},
    ),
    "name, no head": (".pth", lambda state: {name: t for name, t in state.items() if not name.startswith("fc.")}),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_of_tensors_for_a_network_of_timm(form: str, network: torch.nn.Module, tmp_path: Path) -> None:
    suffix, change = FORMS[form]
    path = save(change(network.state_dict()), tmp_path / f"weights{suffix}")
    config = starting(start_from=path, model=TIMM)
    start = read_starting_weights(config, ["a", "b"], side=64)
    assert start is not None
    assert start.described["matched_by"] == form.partition(",")[0]
    state = safetensors.torch.load(start.file)
    for name, tensor in network.state_dict().items():
        if not (name.startswith("fc.") or COUNTER in name):
            assert torch.equal(state.pop(f"network.{name}"), tensor), name
    assert state.keys() == {"mean", "std"}
    torch.testing.assert_close(state["mean"], torch.tensor([0.485, 0.456, 0.406]))


def test_tensors_of_another_network_are_refused(network: torch.nn.Module, tmp_path: Path) -> None:
    state = network.state_dict()
    lacking = {name: t for name, t in state.items() if name != "layer1.0.conv1.weight"}
    other = {**state, "layer1.0.conv1.weight": torch.zeros(3)}
    for wrong in (lacking, other):
        config = starting(start_from=save(wrong, tmp_path / "wrong.pth"), model=TIMM, side=64)
        assert "layer1.0.conv1.weight" in error_of(read_starting_weights, config, CLASSES)
    deeper = timm.create_model("resnet14t").state_dict()  # has all of its tensors, and more
    config = starting(start_from=save(deeper, tmp_path / "deeper.pth"), model=TIMM)
    assert "weights of another network" in error_of(read_starting_weights, config, CLASSES)
    config = starting(start_from=save(timm.create_model("resnet18").state_dict(), tmp_path / "r.pth"), model=TIMM)
    assert "does not fit timm:resnet10t" in error_of(read_starting_weights, config, CLASSES)


class Executed:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1), "x": Executed(tmp_path / "ran")}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Executed(tmp_path / "ran")))
    for name in ("a.pth", "b.pth"):
        config = starting(start_from=tmp_path / name, model=TIMM)
        assert "not a file of tensors" in error_of(read_starting_weights, config, CLASSES)
    assert not (tmp_path / "ran").exists()


def test_weights_that_timm_offers(network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the cache of its hub, with no network; and one line where they are not in it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    config = starting(settings={"pretrained": True, "side": 64}, model=TIMM)
    assert "--from FILE" in error_of(read_starting_weights, config, CLASSES)
    weights = timm.get_pretrained_cfg("resnet10t")
    assert weights is not None
    cached = tmp_path / f"models--{str(weights.hf_hub_id).replace('/', '--')}"
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    safetensors.torch.save_file(network.state_dict(), cached / "snapshots" / "abc" / "model.safetensors")
    start = read_starting_weights(config, CLASSES)
    assert start is not None
    assert (start.described["kind"], start.described["head"]) == ("timm", "new")
    state = safetensors.torch.load(start.file)
    assert torch.equal(state["network.conv1.0.weight"], network.state_dict()["conv1.0.weight"])
    assert not any(name.startswith("network.fc.") for name in state)


def check_learning_curve(run: Path, result: dict[str, Any]) -> None:
    """The kept weights are of instants in order, and their accuracy is what anyone finds who loads them."""
    curve, kept = result["learning_curve"], kept_weights(run)
    assert [row["seconds"] for row in curve[:-1]] == [seconds for seconds, _ in kept]
    assert 1 <= len(kept) <= 3
    assert all(one[key] < other[key] for key in ("seconds", "step") for one, other in pairwise(curve))
    assert curve[-1]["accuracy"] == result["accuracy"]
    assert curve[-1]["step"] == result["saved_at"]["step"]
    test = load_data("digits").test
    for row, (_, weights) in zip(curve, kept, strict=False):
        predictions = load(weights).predict_all(test.images)
        assert row["accuracy"] == np.mean(predictions.probabilities.argmax(1) == test.labels)
    assert (run / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert "Accuracy against time" in (run / "report.html").read_text()


class Broken(CSVLogger):
    """Fails once training has begun."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        raise OSError("no room")


def check_loggers(run: Path, other: Path, result: dict[str, Any]) -> None:
    """Event files and another logger of Lightning hold what the run's own files hold."""
    metrics = pd.read_csv(run / "metrics.csv")
    events = EventAccumulator(str(run))
    events.Reload()
    logged = [(event.step, event.value) for event in events.Scalars("loss")]
    assert [step for step, _ in logged] == list(metrics["step"])
    np.testing.assert_allclose([value for _, value in logged], metrics["loss"], rtol=1e-5)
    accuracy = [(event.step, event.value) for event in events.Scalars("test/accuracy")]
    assert accuracy[-1] == (result["steps"], pytest.approx(result["accuracy"]))
    assert [step for step, _ in accuracy] == [row["step"] for row in result["learning_curve"]]
    mine = pd.read_csv(other / "metrics.csv")
    np.testing.assert_allclose(mine["loss"].dropna(), metrics["loss"])
    assert mine["test/accuracy"].iloc[-1] == pytest.approx(result["accuracy"])


SMALL: dict[str, Any] = {"precision": "fp32", "batch_size": 64}


@pytest.mark.parametrize(
    ("model", "side"), [("resnet10t", 160), ("vit_tiny_patch16_224", 224), ("resnet18.nonsense", "auto")]
)
def test_the_side_is_what_a_backbone_was_trained_at_as_far_as_a_cpu_can(model: str, side: object) -> None:
    given = {"settings": {"pretrained": True}, "model": f"timm:{model}", "device": "cpu"}
    assert starting(**given).side == side
    assert starting(**{**given, "settings": {"pretrained": True, "side": 96}}).side == 96
    assert starting(model=f"timm:{model}").side == "auto"


def test_a_sweep_leaves_the_network_and_the_recipe_as_they_are(weights: Path) -> None:
    design = make_design(seeds=1, budget=60, start_from=weights)
    recipe = resolve(budget=60, start_from=weights)
    assert len(design.variants) == 1 + len(recipe.tricks.keys() - {"patch_whitening", "celu"})
    design = make_design(seeds=1, budget=60, model=TIMM, vary={"pretrained": [True, False]}, tricks=[])
    one, other = design.variants.values()
    assert one.pretrained != other.pretrained
    assert one.lr == other.lr


@pytest.mark.usefixtures("warm_processes")
def test_a_run_that_starts_from_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = train(60, "digits", settings={**SMALL, "width": 8, "max_epochs": 2}, out=tmp_path / "first")
    assert first["started_from"] is None
    still = {**SMALL, "lr": 1e-9, "muon.lr": 1e-9, "max_epochs": 2}  # so that it ends with what it started from
    second = train(60, "digits", start_from=tmp_path / "first", settings=still, out=tmp_path / "second", quiet=False)
    before, after = (load_weights(tmp_path / run / "weights.safetensors")[0] for run in ("first", "second"))
    assert before.keys() == after.keys()
    for name in before:
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-5)
    start = second["started_from"]
    assert start["kind"], start["head"] == ("run", "kept")
    assert start["step"] == first["saved_at"]["step"]
    assert start["path"] == str(tmp_path / "first")
    header: dict[str, Any] = load_weights(tmp_path / "second" / "weights.safetensors")[1]
    assert str(tmp_path) not in json.dumps(header)  # weights are passed on
    assert second["plan"]["width"] == 8
    assert second["expected"] is None
    said = capsys.readouterr()
    assert "its 10 classes have the same names" in said.out + said.err
    assert "from the weights of a resnet9 that was trained before, with its head" in (
        (tmp_path / "second" / "model_card.md").read_text()
    )
    assert start["sha256"] in (tmp_path / "second" / "report.html").read_text()

    assert start["seen_test_images"] == 0  # the same images are held out
    assert start["file_sha256"] == hashlib.sha256((tmp_path / "first/weights.safetensors").read_bytes()).hexdigest()
    assert start["file_sha256"] in (tmp_path / "second" / "model_card.md").read_text()

    third = replay(tmp_path / "second", tmp_path / "third")
    assert third["identical_weights"]
    started_from = tmp_path / "first" / "weights.safetensors"
    save_weights(started_from, {name: tensor + 1 for name, tensor in before.items()}, load_weights(started_from)[1])
    assert "have changed since" in error_of(replay, tmp_path / "second")
    started_from.unlink()
    assert read_run(tmp_path / "second")[0].start_from == str(tmp_path / "first")
    assert load(tmp_path / "second").predict(some_images(1)[0]).label in second["data"]["classes"]
    assert "not a run directory" in error_of(replay, tmp_path / "second")

    loggers = ["tensorboard", Broken(tmp_path), CSVLogger(tmp_path, name="mine", version="")]
    options = {"start_from": tmp_path / "second", "settings": SMALL, "snapshots": 3, "logger": loggers}
    with ThreadPoolExecutor(1) as threads:  # where no signal can be handled
        ancestry = threads.submit(train, 8, "digits", **options, out=tmp_path / "fourth").result()
    check_loggers(tmp_path / "fourth", tmp_path / "mine", ancestry)
    assert capsys.readouterr().err.count("Broken failed and gets no more of this run (OSError: no room)") == 1
    assert ancestry["started_from"]["started_from"]["sha256"] == start["sha256"]
    check_learning_curve(tmp_path / "fourth", ancestry)
    for run in ("second", "fourth"):
        assert "starts from given weights" in error_of(package, tmp_path / "a.zip", run=tmp_path / run)
    assert json.loads((tmp_path / "second" / "result.json").read_text())["started_from"] == start


@pytest.mark.parametrize("logger", [3, "wandb", [CSVLogger, "tensorboard"]])
def test_what_is_no_logger_is_refused_before_the_clock(logger: Any, tmp_path: Path) -> None:
    assert "tensorboard" in error_of(train, 60, "digits", settings=SMALL, logger=logger, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_test_images_that_the_weights_have_seen_are_told(tmp_path: Path) -> None:
    """More images arrive, and others are held out: some of those that the first run was trained on."""
    images, labels = some_images(60, 32, 32, 3), np.arange(60) % 3
    first, then = load_data((images[:30], labels[:30])), load_data((images, labels))
    runs = [tmp_path / name for name in ("first", "second")]
    for run in runs:
        run.mkdir()
        save_model(run / "weights.safetensors")
    one, other = (find_trained_run(run) for run in runs)
    assert one is not None
    assert other is not None
    assert count_seen_images(one, then.test) is None
    assert "not known" in notes_on_seen_images(one, None, 12)[0]

    write_seen_images(runs[0], first.train, None)
    known = {image.tobytes() for image in first.train.images}
    expected = sum(image.tobytes() in known for image in then.test.images)
    assert expected > 0
    assert count_seen_images(one, then.test) == expected
    told = notes_on_seen_images(one, expected, 12)[0]
    assert f"{expected} of 12 test images were training images of {runs[0]}" in told
    assert count_seen_images(one, first.test) == 0
    assert notes_on_seen_images(one, 0, 6) == []

    write_seen_images(runs[1], load_data((images[30:], labels[30:])).train, one)  # and those of the run before it
    assert count_seen_images(other, first.train) == len(first.train.labels)
