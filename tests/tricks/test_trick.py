"""What holds for every trick, and for the pieces they share."""

import copy
import dataclasses
import doctest
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tricks
from tricks import STAGES, TRICKS, Batch, Trick, TrickError, frozen_statistics, parameters_with_gradient


def test_the_example_in_the_package_docstring_runs():
    results = doctest.testmod(tricks)
    assert results.attempted > 5
    assert results.failed == 0


def test_tricks_stand_in_the_order_of_the_flow():
    assert list(TRICKS) == [
        "patch_whitening",
        "blur_pool",
        "mirror_equivariance",
        "harmonic",
        "celu",
        "ghost_batch_norm",
        "random_crop",
        "random_resized_crop",
        "flip",
        "trivial_augment",
        "cutout",
        "cutmix",
        "mixup",
        "progressive_resizing",
        "generalized_cross_entropy",
        "forward_correction",
        "early_learning_regularization",
        "logit_adjustment",
        "label_smoothing",
        "class_weights",
        "peer_loss",
        "saf",
        "fairness_regularizer",
        "sam",
        "momentum_sam",
        "meta_warmup",
        "gradient_centralization",
        "freeze_trunk",
        "muon",
        "layerwise_learning_rate",
        "low_rank",
        "weight_averaging",
        "test_time_augmentation",
    ]
    last_stages = [STAGES.index(trick.stages()[-1]) for trick in TRICKS.values()]
    assert last_stages == sorted(last_stages)


@pytest.mark.parametrize("name", TRICKS)
def test_every_trick_explains_itself(name):
    trick = TRICKS[name]
    assert trick.name() == name
    assert trick.stages()
    assert trick.paper
    summary = trick.__doc__.splitlines()[0]
    assert summary.endswith(".")
    documented = " ".join(trick.__doc__.partition("Args:")[2].split())
    for field in dataclasses.fields(trick):
        assert f"        {field.name}: " in trick.__doc__.partition("Args:")[2]
        default = "empty" if field.default == "" else str(field.default)
        assert re.search(rf"\b{field.name}: .*? Default: {re.escape(default)}\.", documented)
        assert isinstance(getattr(trick(), field.name), (int, float, bool, str, tuple))


def test_the_page_says_what_may_interact_with_each_trick():
    """`docs/tricks.md` says in its own table what the class says."""
    page = (Path(__file__).parents[2] / "docs" / "tricks.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))
    assert {name: rows.get(name, "") for name in TRICKS} == {name: trick.interacts for name, trick in TRICKS.items()}
    for name, trick in TRICKS.items():
        assert "\n" not in trick.interacts
        assert set(re.findall(r"\w+_\w+", trick.interacts)) <= TRICKS.keys() - {name}


BAD = {
    "celu": [("alpha", 0), ("alpha", -1), ("alpha", math.nan), ("alpha", math.inf)],
    "class_weights": [("kind", "even"), ("beta", 1), ("beta", -0.1), ("beta", math.nan)],
    "early_learning_regularization": [
        *[("strength", -1), ("strength", math.inf), ("strength", math.nan)],
        *[("memory", 1), ("memory", -0.1), ("memory", math.nan)],
    ],
    "fairness_regularizer": [
        *[("strength", -1), ("strength", math.inf), ("strength", math.nan), ("groups", "people")],
        *[("clusters", 1), ("clusters", 2.5), ("clusters", math.nan)],
    ],
    "forward_correction": [
        ("noise", -0.1),
        ("noise", 1),
        ("noise", math.nan),
        ("noise", "guess"),
        ("matrix", ((2.0,),)),
    ],
    "generalized_cross_entropy": [("q", 0), ("q", 1.1), ("q", math.nan)],
    "logit_adjustment": [("tau", -0.1), ("tau", math.inf), ("tau", math.nan)],
    "cutout": [("size", 0), ("size", math.nan)],
    "flip": [("probability", -0.1), ("probability", 1.1), ("probability", math.nan)],
    "freeze_trunk": [
        *[("lower", -0.1), ("lower", 1), ("lower", math.nan)],
        *[("until", -0.1), ("until", 1.1), ("until", math.nan)],
    ],
    "ghost_batch_norm": [("splits", 0)],
    "harmonic": [("levels", 0), ("levels", math.nan)],
    "label_smoothing": [("smoothing", -6.1), ("smoothing", 1), ("smoothing", math.nan)],
    "layerwise_learning_rate": [("first", 0), ("first", 1.1), ("first", math.nan)],
    "low_rank": [
        *[("ranks", (16, -16)), ("ranks", (0.5,)), ("margin", -0.1), ("margin", 1), ("margin", math.nan)],
        *[("share", 0), ("share", 1.1), ("share", math.nan), ("freeze", "both"), ("turns", 1), ("turns", math.nan)],
    ],
    "meta_warmup": [("alpha", 0), ("alpha", math.inf), ("alpha", math.nan), ("fraction", 1.5), ("fraction", math.nan)],
    "mixup": [("alpha", 0), ("alpha", math.nan), ("alpha", math.inf)],
    "muon": [
        *[("lr", 0), ("lr", math.inf), ("lr", math.nan), ("momentum", 1), ("momentum", -0.1), ("momentum", math.nan)],
        *[("steps", 0), ("weight_decay", -1), ("weight_decay", math.inf), ("weight_decay", math.nan)],
    ],
    "patch_whitening": [("eps", 0), ("eps", math.nan), ("eps", math.inf), ("kernel", 4)],
    "peer_loss": [
        *[("alpha", -1), ("alpha", math.inf), ("alpha", math.nan), ("ramp", -0.1), ("ramp", 1.1), ("ramp", math.nan)],
        *[("clamp", 0), ("clamp", math.inf), ("clamp", math.nan)],
    ],
    "progressive_resizing": [
        *[
            ("scales", (0.5, 1.0)),
            ("scales", (0.5, 0.4, 1.0)),
            ("scales", (0.0, 0.5, 1.0)),
            ("scales", (0.5, 1.0, 1.5)),
        ],
        *[("scales", (0.5, math.nan, 1.0)), ("until", (0.5,)), ("until", (0.5, 0.4)), ("until", (0.5, 1.1))],
        ("until", (math.nan, 0.5)),
    ],
    "random_crop": [("padding", 0)],
    "momentum_sam": [("rho", 0), ("rho", math.nan), ("rho", math.inf), ("momentum", -0.1), ("momentum", 1)],
    "saf": [
        *[("strength", -1), ("strength", math.inf), ("strength", math.nan), ("epochs_back", 0)],
        *[("temperature", 0), ("temperature", math.inf), ("temperature", math.nan)],
        *[("start", -0.1), ("start", 1.1), ("start", math.nan)],
    ],
    "sam": [("rho", 0), ("rho", math.nan), ("rho", math.inf), ("interval", 0), ("start", 1.1), ("start", math.nan)],
    "test_time_augmentation": [("mode", "upside-down")],
    "trivial_augment": [("strength", 0), ("strength", 1.1), ("strength", math.nan)],
    "weight_averaging": [("decay", 1), ("decay", -0.1), ("decay", math.nan), ("interval", 0)],
}


@pytest.mark.parametrize(("name", "field", "value"), [(n, f, v) for n, cases in BAD.items() for f, v in cases])
def test_bad_hyperparameters_are_refused_in_one_line_that_names_them(name, field, value):
    with pytest.raises(TrickError) as error:
        TRICKS[name](**{field: value})
    message = str(error.value)
    assert field in message
    assert "got" in message
    assert "\n" not in message


def test_a_trick_that_overrides_nothing_changes_nothing(make_network, make_batch):
    trick, model, batch = Trick(), make_network(), make_batch()
    assert Trick.stages() == ()
    assert trick.model(model) is model
    assert trick.batch(batch) is batch
    for stage in trick.loss, trick.prediction:
        assert stage(len) is len
    assert trick.gradient(len, model) is len
    assert trick.weights(model.state_dict(), 0).keys() == model.state_dict().keys()
    assert trick.state() == {}
    trick.load_state({})


@pytest.mark.parametrize("name", TRICKS)
def test_every_trick_repeats_its_steps_from_a_loaded_state(name, make_network, make_batch):
    """Whatever a trick carries from step to step, outside the network and its optimizer, is in its state."""
    trick, network = TRICKS[name](), torch.nn.Sequential(torch.nn.MaxPool2d(2), make_network())
    trick.data(make_batch(40).images, torch.randint(4, (40,)))
    model = trick.model(network)
    optimizer = trick.step(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), model)
    loss = trick.loss(F.cross_entropy)

    def plain_gradient(batch):
        model.zero_grad()
        value = loss(model(batch.images), batch.targets)
        value.backward()
        return value.detach()

    compute = trick.gradient(plain_gradient, model)

    def train(steps):
        """The weights to keep after each of these steps, with the same batches each time."""
        torch.manual_seed(1)
        kept = []
        for step in steps:
            ids = torch.randperm(40)[:12]
            compute(trick.batch(make_batch(progress=step / 20, step=step)._replace(ids=ids)))
            optimizer.step()
            kept.append({key: value.clone() for key, value in trick.weights(model.state_dict(), step).items()})
        return kept

    train(range(3))
    start = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    state = trick.state()
    first = train(range(3, 12))
    for _ in range(2):
        weights, momentum = copy.deepcopy(start)
        model.load_state_dict(weights)
        optimizer.load_state_dict(momentum)
        trick.load_state(state)
        for now, then in zip(train(range(3, 12)), first, strict=True):
            assert all(torch.equal(now[key], then[key]) for key in then)


def test_state_and_load_state_are_no_stages():
    assert not {"state", "load_state"} & set(STAGES)


def test_the_number_of_classes_of_a_batch_is_optional():
    assert Batch(torch.zeros(1, 3, 2, 2), torch.zeros(1)).classes == 0


def test_frozen_statistics_leaves_buffers_alone_and_outputs_as_they_are(make_network, make_batch):
    model, batch = make_network(), make_batch()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with frozen_statistics(model):
        frozen = model(batch.images)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name])
    assert torch.equal(model(batch.images), frozen)
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])


def test_frozen_statistics_thaws_after_an_error(make_network):
    model = make_network()
    with pytest.raises(RuntimeError), frozen_statistics(model):
        raise RuntimeError
    assert all(norm.track_running_stats for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))


def test_parameters_with_gradient_are_those_that_backward_reached():
    model = nn.ModuleDict({"frozen": nn.Linear(2, 2), "used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    model["used"](model["frozen"](torch.ones(1, 2))).sum().backward()
    assert [id(p) for p in parameters_with_gradient(model)] == [id(p) for p in model["used"].parameters()]
