"""What this machine can do, and what each part of a training step costs on it.

Run by `speedtrain bench` as `python -m speedtrain.bench.measure CONFIG PLAN OUT`, in a process with the environment of
a training one. Everything is compared within rounds, one after the other, since machines change their pace; what is
reported is the median over rounds.
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

from speedtrain.config import Config, resolve
from speedtrain.data import load_data
from speedtrain.files import write_atomic
from speedtrain.machine import available_cores
from speedtrain.network.classifier import build_classifier
from speedtrain.network.precision import PRECISIONS, autocast, configure_device
from speedtrain.network.resnet9 import ResNet9
from speedtrain.training.lightning_module import build_training
from speedtrain.training.planner import WIDTHS, Plan
from speedtrain.training.worker import send_message, train
from timing import Ledger
from tricks import TRICKS, TrickError

ROUNDS = 5
LONG_ENOUGH = 0.25  # seconds, to time something that is repeated
PAIRS = 20  # of the harness and a bare loop
CHUNK = 2.0  # seconds of training, of each of the two
MOMENTS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the schedule, at which a trick's cost is taken
OPERATIONS = 2  # a multiplication and an addition

Rows = list[dict[str, Any]]


def seconds_each(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds of some work, done at least three times after a first one."""
    work()
    _wait(device)
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < LONG_ENOUGH:
        begun = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - begun)
    return median(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def products(device: torch.device, precisions: Sequence[str]) -> Rows:
    """The fastest of square matrix products of several sizes, in billions of operations a second."""
    rows = []
    for precision in precisions:
        best = {"gflops": 0.0, "size": 0}
        for size in (512, 1024, 2048) if device.type == "cpu" else (4096, 8192):
            matrix = torch.randn(size, size, device=device).to(PRECISIONS[precision])
            seconds = seconds_each(partial(torch.matmul, matrix, matrix), device)
            rate = OPERATIONS * size**3 / seconds / 1e9
            best = max(best, {"gflops": round(rate, 1), "size": size}, key=lambda row: row["gflops"])
            if seconds > LONG_ENOUGH:  # bf16 without support for it: a larger one would take minutes, and be no faster
                break
        rows.append({"precision": precision, **best})
    return rows


def convolutions(device: torch.device, precision: str, peak: float, batch_size: int) -> Rows:
    """Every convolution of ResNet-9 at every width, forwards and backwards, channels last.

    Operations are those of the sum that a convolution is; Winograd's way to it has fewer, so that its rate may lie
    above the peak.

    Args:
        peak: billions of operations a second, of which the rates are shares.
    """
    rows = []
    for width in WIDTHS:
        for stage, layer, inputs in _layers(width, device, precision, batch_size):
            first = stage == "prep"  # whose input needs no gradient
            passes = 2 if first else 3
            operations = passes * OPERATIONS * layer.weight.numel() * batch_size * inputs.shape[2] * inputs.shape[3]
            given = inputs.to(PRECISIONS[precision], memory_format=torch.channels_last).requires_grad_(not first)
            seconds = seconds_each(partial(_forwards_and_backwards, layer, given, precision), device)
            rate = operations / seconds / 1e9
            row: dict[str, Any] = {"width": width, "stage": stage, "side": inputs.shape[2]}
            row |= {"channels": [layer.in_channels, layer.out_channels], "ms": round(1000 * seconds, 3)}
            rows.append({**row, "gflops": round(rate, 1), "share_of_peak": round(rate / peak, 4)})
    return rows


def _layers(width: int, device: torch.device, precision: str, batch_size: int) -> list[tuple[str, nn.Conv2d, Tensor]]:
    """Stage, layer and input of each convolution of ResNet-9 that has a shape of its own."""
    network = ResNet9(10, width).to(device).to(memory_format=torch.channels_last)
    seen: dict[str, tuple[str, nn.Conv2d, Tensor]] = {}

    def see(name: str, layer: nn.Conv2d, inputs: tuple[Tensor, ...], _: object) -> None:
        seen.setdefault(_stage(name), (_stage(name), layer, inputs[0].detach()))

    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    hooks = [layer.register_forward_hook(partial(see, name)) for name, layer in layers.items()]
    with autocast(device, precision):
        network(torch.randn(batch_size, 3, 32, 32, device=device).to(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()
    return list(seen.values())


def _stage(name: str) -> str:
    """`stage1.1.body.0.0` → residual1: both convolutions of a residual block have one shape."""
    head, *rest = name.split(".")
    return head.replace("stage", "residual") if rest[0] == "1" else head


def _forwards_and_backwards(layer: nn.Module, inputs: Tensor, precision: str) -> None:
    with autocast(inputs.device, precision):
        outputs = layer(inputs)
    wanted = [*layer.parameters(), inputs] if inputs.requires_grad else [*layer.parameters()]
    torch.autograd.grad(outputs, wanted, torch.ones_like(outputs))


class _Loop:
    """Steps of a configuration's network and tricks, without the harness around them."""

    def __init__(self, config: Config, plan: Plan, images: Tensor, labels: Tensor, classes: int):
        self.batch_size, self.images = plan.batch_size, images
        self.training = build_training(config, images, labels, classes, width=plan.width, precision=plan.precision)
        self.tricks = self.training.tricks
        self.training.differentiate = Tensor.backward
        self.optimizer = self.training.configure_optimizers()
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.01  # the cost does not depend on it, and nothing blows up
        self.state = dict(self.training.classifier.state_dict())

    def seconds(self) -> float:
        """Of a mean step, over the moments of the schedule."""
        begun = time.perf_counter()
        for progress in MOMENTS:
            chosen = torch.randint(len(self.images), (self.batch_size,), device=self.images.device)
            self.training.progress = progress
            self.training.step(chosen, self.optimizer)
            for trick in self.tricks:
                trick.weights(self.state, self.training.num_steps)
        _wait(self.images.device)
        return (time.perf_counter() - begun) / len(MOMENTS)


def trick_costs(config: Config, plan: Plan, images: Tensor, labels: Tensor, classes: int) -> Rows:
    """What each trick alone adds to a step of the plain network, and what all of the recipe's add together.

    Returns:
        First the plain step, `trick` none and its `ms`; then a row a trick that can act on this model: `ms` and
        `percent` that it adds (medians), `low` and `high` percent of the rounds, and whether it is `in_recipe`.
    """
    sets = {name: {name: config.tricks.get(name, {})} for name in TRICKS} | {"all of the recipe": config.tricks}
    loops = {}
    for name, tricks in {"none": {}, **sets}.items():
        with suppress(TrickError):  # not on this model
            loops[name] = _Loop(replace(config, tricks=tricks), plan, images, labels, classes)
    for loop in loops.values():
        loop.seconds()  # makes kernels
    ratios: dict[str, list[float]] = {name: [] for name in loops if name != "none"}
    plain = []
    for _ in range(ROUNDS):
        for name in ratios:  # each beside a plain one
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
    """Time of a step in the harness over that of a step in a bare PyTorch loop, on the same network and images.

    Without what the harness saves, which takes at most half a percent of a run.

    Returns:
        `percent` that the harness adds (median of the pairs), `low` and `high` of its 95 % interval, `ms` of a bare
        step, `steps` of each of a pair and the number of `pairs`.
    """
    plain = replace(config, tricks={}, batch_size=plan.batch_size, precision=plan.precision)
    plain.width = plan.width or config.width
    bare_loop(plain, images, labels, classes, 5)  # makes kernels
    trial = bare_loop(plain, images, labels, classes, 5)
    steps = max(10, int(CHUNK / trial))
    arrays, targets = images.cpu().numpy(), labels.cpu().numpy()

    def in_harness() -> float:
        ledger = Ledger()
        with tempfile.TemporaryDirectory(prefix="speedtrain-") as folder:
            names = [str(k) for k in range(classes)]
            train(plain, arrays, targets, names, Path(folder), ledger=ledger, max_steps=steps)
        return ledger.phases()["train"] / steps

    def bare() -> float:
        return bare_loop(plain, images, labels, classes, steps)

    in_harness()  # makes kernels
    pairs = []
    for pair in range(PAIRS):  # each comes first in half of them: a machine that slows down favours neither
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
    """The 95 % interval of the median, by the sign test: from the k-th value to the k-th from above; all of them where
    they are too few to say more."""
    below = max(0, int(stats.binom.ppf(0.025, len(values), 0.5)) - 1)
    ordered = sorted(values)
    return ordered[below], ordered[-1 - below]


def bare_loop(config: Config, images: Tensor, labels: Tensor, classes: int, steps: int) -> float:
    """Seconds a step of the plainest loop that does the same work: what the harness is measured against."""
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
    begun = time.perf_counter()
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
    return (time.perf_counter() - begun) / steps


def main(config_file: Path, plan_file: Path, out: Path) -> None:
    """Measures everything and writes it to `out`, as JSON."""
    config, plan = resolve(recipe=config_file), Plan(**json.loads(plan_file.read_text("utf-8")))
    device = torch.device(config.device)
    configure_device(device)
    torch.set_num_threads(config.threads or available_cores())
    data = load_data(config.data, config.test, per_class=config.per_class, data_root=config.data_root).train
    images, labels = torch.tensor(data.images, device=device), torch.tensor(data.labels, device=device)
    classes = len(data.classes)
    send_message("matrix products …")
    peaks = products(device, ["fp32", "bf16"] if device.type == "cpu" else ["fp32", "bf16", "fp16"])
    peak = next(row["gflops"] for row in peaks if row["precision"] == plan.precision)
    send_message(f"convolutions in {plan.precision} …")
    stages = convolutions(device, plan.precision, peak, plan.batch_size)
    send_message(f"cost of each trick at width {plan.width} …")
    costs = trick_costs(config, plan, images, labels, classes)
    send_message("the harness against a bare loop …")
    beyond = overhead(config, plan, images, labels, classes)
    told = {"products": peaks, "convolutions": stages, "tricks": costs, "overhead": beyond}
    write_atomic(out, json.dumps({"threads": config.threads, **told}).encode())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
