"""What this machine can do, and what each part of a training step costs on it.

`speedtrain bench` runs it as `python -m speedtrain.bench.measure CONFIG PLAN OUT`, with the environment of a process
that trains. The speed of a machine changes with time, so each comparison is made within short rounds; the results are
medians over rounds.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from speedtrain.bench.prediction_speed import predictions
from speedtrain.bench.step_parts import step_parts
from speedtrain.chosen_tricks import with_planned
from speedtrain.config import Config, resolve
from speedtrain.data.configured import load_configured
from speedtrain.files import write_atomic
from speedtrain.machine import available_cores
from speedtrain.network.classifier import build_classifier
from speedtrain.network.precision import PRECISIONS, autocast, configure_device
from speedtrain.network.resnet9 import ResNet9
from speedtrain.training.lightning_module import build_training
from speedtrain.training.plan import Plan
from speedtrain.training.planner import WIDTHS
from speedtrain.training.worker import send_message, train
from timing import Ledger
from tricks import TRICKS, TrickError

ROUNDS = 5
"""Rounds in which every trick is compared with the plain network."""
LONG_ENOUGH = 0.25
"""Seconds for which an operation is repeated to time it."""
PAIRS = 20
"""Pairs of the harness and a bare loop."""
CHUNK = 2.0
"""Seconds of training in each half of a pair."""
MOMENTS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Progress at which a trick's cost is measured: tricks may do more at some times than at others."""
OPERATIONS = 2  # a multiplication and an addition

Rows = list[dict[str, Any]]


def seconds_per_call(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a call, over at least three calls after a first one that is not timed."""
    work()
    _wait(device)
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < LONG_ENOUGH:
        started = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - started)
    return median(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def products(device: torch.device, precisions: Sequence[str]) -> Rows:
    """The fastest product of square matrices for each precision.

    Returns:
        A row per precision: `precision`, `gflops` (billions of operations per second) and `size`.
    """
    rows = []
    for precision in precisions:
        best = {"gflops": 0.0, "size": 0}
        for size in (512, 1024, 2048) if device.type == "cpu" else (4096, 8192):
            matrix = torch.randn(size, size, device=device).to(PRECISIONS[precision])
            seconds = seconds_per_call(partial(torch.matmul, matrix, matrix), device)
            rate = OPERATIONS * size**3 / seconds / 1e9
            best = max(best, {"gflops": round(rate, 1), "size": size}, key=lambda row: row["gflops"])
            if seconds > LONG_ENOUGH:  # bf16 on a CPU without support for it: a larger product would take minutes
                break
        rows.append({"precision": precision, **best})
    return rows


def convolutions(device: torch.device, precision: str, peak: float, batch_size: int) -> Rows:
    """Every convolution of ResNet-9 at every width, forwards and backwards, channels last.

    Operations are counted by the definition of a convolution. Winograd's algorithm needs fewer, so its rate may exceed
    the peak.

    Args:
        device: where to measure.
        precision: fp32, bf16 or fp16.
        peak: billions of operations per second, the rate of a matrix product.
        batch_size: images per batch.

    Returns:
        A row per width and stage: `width`, `stage`, `side` (pixels of the inputs), `channels` (in and out), `ms`,
        `gflops` and `share_of_peak`.
    """
    rows = []
    for width in WIDTHS:
        for stage, layer, inputs in _layers(width, device, precision, batch_size):
            first = stage == "prep"  # the images need no gradient
            passes = 2 if first else 3
            operations = passes * OPERATIONS * layer.weight.numel() * batch_size * inputs.shape[2] * inputs.shape[3]
            batch = inputs.to(PRECISIONS[precision], memory_format=torch.channels_last).requires_grad_(not first)
            seconds = seconds_per_call(partial(_forwards_and_backwards, layer, batch, precision), device)
            rate = operations / seconds / 1e9
            row: dict[str, Any] = {"width": width, "stage": stage, "side": inputs.shape[2]}
            row |= {"channels": [layer.in_channels, layer.out_channels], "ms": round(1000 * seconds, 3)}
            rows.append({**row, "gflops": round(rate, 1), "share_of_peak": round(rate / peak, 4)})
    return rows


def _layers(width: int, device: torch.device, precision: str, batch_size: int) -> list[tuple[str, nn.Conv2d, Tensor]]:
    """Stage, layer and input of every convolution of ResNet-9; one for convolutions of the same shape."""
    network = ResNet9(10, width).to(device).to(memory_format=torch.channels_last)
    found: dict[str, tuple[str, nn.Conv2d, Tensor]] = {}

    def record(name: str, layer: nn.Conv2d, inputs: tuple[Tensor, ...], _: object) -> None:
        found.setdefault(_stage(name), (_stage(name), layer, inputs[0].detach()))

    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    hooks = [layer.register_forward_hook(partial(record, name)) for name, layer in layers.items()]
    with autocast(device, precision):
        network(torch.randn(batch_size, 3, 32, 32, device=device).to(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()
    return list(found.values())


def _stage(name: str) -> str:
    """`stage1.1.body.0.0` → residual1. Both convolutions of a residual block have the same shape and one name."""
    stage, *rest = name.split(".")
    return stage.replace("stage", "residual") if rest[0] == "1" else stage


def _forwards_and_backwards(layer: nn.Module, inputs: Tensor, precision: str) -> None:
    with autocast(inputs.device, precision):
        outputs = layer(inputs)
    variables = [*layer.parameters(), inputs] if inputs.requires_grad else [*layer.parameters()]
    torch.autograd.grad(outputs, variables, torch.ones_like(outputs))


class _Loop:
    """Training steps of a network with its tricks, without the harness."""

    def __init__(self, config: Config, plan: Plan, images: Tensor, labels: Tensor, classes: int):
        self.batch_size, self.images = plan.batch_size, images
        self.training = build_training(config, images, labels, classes, width=plan.width, precision=plan.precision)
        self.tricks = self.training.tricks
        self.training.differentiate = Tensor.backward
        self.optimizer = self.training.configure_optimizers()
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.01  # the cost does not depend on it, and training does not diverge
        self.state = dict(self.training.classifier.state_dict())

    def seconds(self) -> float:
        """Seconds of a step, the mean over the moments of the schedule."""
        started = time.perf_counter()
        for progress in MOMENTS:
            chosen = torch.randint(len(self.images), (self.batch_size,), device=self.images.device)
            self.training.progress = progress
            self.training.step(chosen, self.optimizer)
            for trick in self.tricks:
                trick.weights(self.state, self.training.num_steps)
        _wait(self.images.device)
        return (time.perf_counter() - started) / len(MOMENTS)


def trick_costs(config: Config, plan: Plan, images: Tensor, labels: Tensor, classes: int) -> Rows:
    """What each trick alone adds to a step of the plain network, and what the recipe's tricks add together.

    Args:
        config: the recipe.
        plan: width, batch size and precision.
        images: uint8 [N, H, W, C].
        labels: int [N].
        classes: how many.

    Returns:
        First the plain step: `trick` none and its `ms`. Then a row per trick that works on this model: `ms` and
        `percent` that it adds (medians), `low` and `high` percent over the rounds, and whether it is `in_recipe`.
    """
    sets = {name: {name: config.tricks.get(name, {})} for name in TRICKS} | {"all of the recipe": config.tricks}
    loops = {}
    for name, tricks in {"none": {}, **sets}.items():
        with suppress(TrickError):  # it does not work on this model
            loops[name] = _Loop(replace(config, tricks=tricks), plan, images, labels, classes)
    for loop in loops.values():
        loop.seconds()  # the first call makes kernels
    ratios: dict[str, list[float]] = {name: [] for name in loops if name != "none"}
    plain = []
    for _ in range(ROUNDS):
        for name in ratios:  # each right after a plain step
            plain.append(loops["none"].seconds())
            ratios[name].append(loops[name].seconds() / plain[-1])
    step = median(plain)
    rows = []
    for name, each in ratios.items():
        low, middle, high = (round(100 * (value - 1), 1) for value in (min(each), median(each), max(each)))
        used = name in config.tricks or name not in TRICKS
        rows.append({"trick": name, "percent": middle, "low": low, "high": high, "in_recipe": used})
        rows[-1]["ms"] = round(10 * step * middle, 2)
    return [{"trick": "none", "ms": round(1000 * step, 2)}, *rows]


def overhead(config: Config, plan: Plan, images: Tensor, labels: Tensor, classes: int) -> dict[str, Any]:
    """What the harness adds to a step of a bare PyTorch loop, on the same network and images.

    Saving the weights is not counted; it takes at most half a percent of a run.

    Args:
        config: the recipe; its tricks are left out.
        plan: width, batch size and precision.
        images: uint8 [N, H, W, C].
        labels: int [N].
        classes: how many.

    Returns:
        `percent` that the harness adds (median of the pairs), `low` and `high` of its 95 % interval, `ms` of a bare
        step, `steps` in each half of a pair, and the number of `pairs`.
    """
    plain = replace(config, tricks={}, batch_size=plan.batch_size, precision=plan.precision)
    plain.width = plan.width or config.width
    bare_loop(plain, images, labels, classes, 5)  # the first call makes kernels
    seconds_per_step = bare_loop(plain, images, labels, classes, 5)
    steps = max(10, int(CHUNK / seconds_per_step))
    arrays, targets = images.cpu().numpy(), labels.cpu().numpy()

    def in_harness() -> float:
        ledger = Ledger()
        with tempfile.TemporaryDirectory(prefix="speedtrain-") as folder:
            names = [str(k) for k in range(classes)]
            train(plain, arrays, targets, names, Path(folder), ledger=ledger, max_steps=steps)
        return ledger.phases()["train"] / steps

    def bare() -> float:
        return bare_loop(plain, images, labels, classes, steps)

    in_harness()  # the first call makes kernels
    pairs = []
    for pair in range(PAIRS):  # each is first in half of the pairs: a machine that slows down favours neither
        ours, theirs = (in_harness(), bare()) if pair % 2 else (bare(), in_harness())[::-1]
        pairs.append((ours, theirs))
    ratios = [100 * (ours / theirs - 1) for ours, theirs in pairs]
    low, high = median_interval(ratios)
    return {
        "percent": round(median(ratios), 2),
        "low": round(low, 2),
        "high": round(high, 2),
        "ms": round(1000 * median(theirs for _, theirs in pairs), 2),
        "steps": steps,
        "pairs": PAIRS,
    }


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median, by the sign test: from the k-th smallest to the k-th largest value.

    With fewer than nine values it is the whole range.
    """
    below = max(0, int(stats.binom.ppf(0.025, len(values), 0.5)) - 1)
    ordered = sorted(values)
    return ordered[below], ordered[-1 - below]


def bare_loop(config: Config, images: Tensor, labels: Tensor, classes: int, steps: int) -> float:
    """Seconds per step of the plainest PyTorch loop that does the same work as the harness."""
    assert isinstance(config.batch_size, int)
    assert isinstance(config.width, int) or config.model != "resnet9"
    width = config.width if isinstance(config.width, int) else 0
    network = build_classifier(config.model, classes, width, config.head_scale, [], images).to(images.device)
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    sgd: dict[str, Any] = {
        "momentum": config.momentum,
        "nesterov": config.nesterov,
        "weight_decay": config.weight_decay,
    }
    optimizer = torch.optim.SGD(groups, lr=config.lr, **sgd)
    order = torch.randint(len(images), (steps, config.batch_size), device=images.device)
    torch.set_num_threads(config.threads or available_cores())
    started = time.perf_counter()
    for step, chosen in enumerate(order):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * config.lr_factor(step / steps)
        batch = network.normalise(images[chosen])
        with autocast(images.device, config.precision):
            logits = network(batch)
        loss = F.cross_entropy(logits.float(), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _wait(images.device)
    return (time.perf_counter() - started) / steps


def main(config_file: Path, plan_file: Path, out: Path) -> None:
    """Measures everything.

    Args:
        config_file: the recipe, device and threads included.
        plan_file: the plan, as JSON.
        out: the JSON file to write.
    """
    config, plan = resolve(recipe=config_file), Plan(**json.loads(plan_file.read_text("utf-8")))
    config.tricks = with_planned(config.tricks, plan.ranks, plan.added)
    device = torch.device(config.device)
    configure_device(device)
    torch.set_num_threads(config.threads or available_cores())
    data = load_configured(config).train
    images, labels = torch.as_tensor(data.images, device=device), torch.tensor(data.labels, device=device)
    classes = len(data.classes)
    send_message("matrix products …")
    peaks = products(device, ["fp32", "bf16"] if device.type == "cpu" else ["fp32", "bf16", "fp16"])
    peak = next(row["gflops"] for row in peaks if row["precision"] == plan.precision)
    send_message(f"convolutions in {plan.precision} …")
    stages = convolutions(device, plan.precision, peak, plan.batch_size)
    send_message(f"cost of each trick at width {plan.width} …")
    costs = trick_costs(config, plan, images, labels, classes)
    loop = _Loop(config, plan, images, labels, classes)
    parts = step_parts(loop.seconds, loop.training)
    send_message("predictions …")
    rates = {row["precision"]: row["gflops"] for row in peaks}
    predicted = predictions(config, plan, images, classes, rates, seconds_per_call)
    send_message("the harness against a bare loop …")
    harness = overhead(config, plan, images, labels, classes)
    measured: dict[str, Any] = {"products": peaks, "convolutions": stages, "tricks": costs, "step": parts}
    measured |= {"predictions": predicted, "overhead": harness}
    write_atomic(out, json.dumps({"threads": config.threads, **measured}).encode())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
