"""speedtrain beside its peers: same machine, same images, same budgets, one run after another.

    python scripts/peers.py --budgets 60,600 --seeds 3 --data train.npz --test test.npz --out results/peers

The peers are the competition's LeNet baseline, an airbench-style network, timm's resnet18, and the paper's recipe. The
first three train in the plain PyTorch loop below. Its clock counts from the start of the process, as ours does, and its
memory allocator has our settings. The paper's recipe trains in our harness.

Each peer trains as its description says, with two additions: its schedule follows the clock, so that the learning rate
has decayed when the time is over; and it uses the precision that is fastest on this machine.

`--peers ultralytics,fastai` adds those libraries, each with its own training (`peer_libraries.py`). They are not
among the default peers, since they must be installed first.

A comparison that was cut off goes on where it stopped. A peer that fails is recorded, and the others go on.

One file because a reader should see on one page that all peers are treated alike.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PEERS = ("auto", "paper", "airbench", "resnet18", "lenet")
LIBRARIES = ("ultralytics", "fastai")
NAMES = {
    "auto": "speedtrain, auto",
    "paper": "the paper's recipe",
    "airbench": "airbench-style",
    "resnet18": "timm resnet18",
    "lenet": "LeNet baseline",
    "ultralytics": "Ultralytics yolo11n-cls",
    "fastai": "fastai resnet18",
}
VALIDATION = 10  # images per class in val/, for libraries that want some; theirs are training images
RESERVE = 0.3  # seconds of the budget in which the plain loops do not train; ours saves its weights in that time


@dataclass
class Peer:
    """A network and how it is trained.

    Attributes:
        network: images [B, 3, 32, 32] → logits.
        optimizer: of its parameters, at its peak learning rate.
        factor: progress → factor on the learning rate.
        translate: pixels of padding for random crops. Default: 4.
        flip: `random` (the default), or `alternating` from epoch to epoch.
        smoothing: of the labels. Default: none.
        batch_size: images per step. Default: 128.
        after_step: called with the progress after each step. Default: nothing.
        at_end: called after the last step. Default: nothing.
        views: whether it predicts from mirrored and shifted copies of the images. Default: no.
    """

    network: Any
    optimizer: Any
    factor: Callable[[float], float]
    translate: int = 4
    flip: str = "random"
    smoothing: float = 0.0
    batch_size: int = 128
    after_step: Callable[[float], None] = lambda progress: None
    at_end: Callable[[], None] = lambda: None
    views: bool = False


def cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def lenet(classes: int) -> Peer:
    """The organisers' baseline: LeNet-5, SGD 0.1, momentum 0.9, weight decay 5e-4, cosine, crops and flips."""
    import torch
    from torch import nn

    network = nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes),
    )  # fmt: skip
    return Peer(network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4), cosine)


def resnet18(classes: int) -> Peer:
    """timm's resnet18 without pretrained weights, with the usual SGD recipe for CIFAR-10."""
    import timm
    import torch

    network = timm.create_model("resnet18", pretrained=False, num_classes=classes)
    sgd = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return Peer(network, sgd, cosine)


def airbench(classes: int, images: Any) -> Peer:
    """A network after Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU (arXiv 2404.00498).

    Frozen whitening of 2×2 patches and their negatives with a learned bias; three blocks of 64, 256 and 256 channels,
    each of two convolutions that begin as the identity, pooling after the first, batch norm without a scale, GELU;
    head scaled by 1/9. SGD with Nesterov momentum 0.85, triangular schedule, biases of norms 64 times faster, label
    smoothing 0.2, lookahead every 5 steps, alternating flip, shifts by 2 pixels, six views.

    Batches are of 1,024 images on a GPU, and of 128 on a CPU, where a minute has time for only a few large batches. The
    paper states its learning rates per 1,024 images, so they apply to any batch size. The momentum of batch norm and
    the period of lookahead are scaled to span the same number of images. SGD's momentum is not changed.
    """
    import torch
    from torch import nn

    from tricks.patch_whitening import patch_covariance

    batch_size = 1024 if images.is_cuda else 128
    share = batch_size / 1024  # of the batch size that the paper's settings are for

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                identity_convolution(inputs, outputs), nn.MaxPool2d(2), norm(outputs), nn.GELU(),
                identity_convolution(outputs, outputs), norm(outputs), nn.GELU(),
            )  # fmt: skip

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x)

    def identity_convolution(inputs: int, outputs: int) -> nn.Conv2d:
        layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        nn.init.dirac_(layer.weight.data[:inputs])
        return layer

    def norm(channels: int) -> nn.BatchNorm2d:
        layer = nn.BatchNorm2d(channels, eps=1e-12, momentum=1 - (1 - 0.4) ** share)
        layer.weight.requires_grad_(False)
        return layer

    class Scale(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / 9

    whitening = nn.Conv2d(3, 24, 2)
    values, vectors = torch.linalg.eigh(patch_covariance(images.cpu(), 2))
    filters = (vectors.T / (values + 5e-4).sqrt()[:, None]).float().view(12, 3, 2, 2)
    whitening.weight.data[:] = torch.cat([filters, -filters])
    whitening.weight.requires_grad_(False)
    bias = whitening.bias = nn.Parameter(torch.zeros(24))
    network = nn.Sequential(
        whitening, nn.GELU(), Block(24, 64), Block(64, 256), Block(256, 256), nn.MaxPool2d(3), nn.Flatten(),
        nn.Linear(256, classes, bias=False), Scale(),
    )  # fmt: skip
    # The paper's values leave out the amplification by momentum: 11.5 on the mean loss, and a decay of 0.0153 per step.
    amplified = 1 + 1 / (1 - 0.85)
    lr, decay = 11.5 * share / amplified, 0.0153 * share / amplified
    norms = [p for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in [m.bias]]
    known = {id(p) for p in norms}
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in known]
    optimizer = torch.optim.SGD(
        [
            {"params": norms, "lr": 64 * lr, "weight_decay": decay / (64 * lr)},
            {"params": others, "lr": lr, "weight_decay": decay / lr},
        ],
        momentum=0.85, nesterov=True,
    )  # fmt: skip
    slow: dict[str, torch.Tensor] = {}
    steps = 0

    @torch.no_grad()
    def look_ahead(progress: float) -> None:
        nonlocal steps
        steps += 1
        bias.requires_grad_(progress < 3 / 9.9)  # learned in the first three of 9.9 epochs
        if steps % round(5 / share) == 0:
            kept = 0.95**5 * progress**3  # of the slow weights: none at first, most at last
            for name, tensor in network.state_dict().items():
                if tensor.is_floating_point():
                    slow.setdefault(name, tensor.clone()).lerp_(tensor, 1 - kept)
                    tensor.copy_(slow[name])

    @torch.no_grad()
    def copy_slow_weights() -> None:
        for name, tensor in network.state_dict().items():
            if name in slow:
                tensor.copy_(slow[name])

    def triangle(progress: float) -> float:
        return 0.2 + 0.8 * progress / 0.23 if progress < 0.23 else 1 + (0.07 - 1) * (progress - 0.23) / 0.77

    return Peer(
        network, optimizer, triangle, 2, "alternating", 0.2, batch_size, look_ahead, copy_slow_weights, views=True
    )


def run_plain(peer_name: str, budget: float, seed: int, data: Path, test: Path) -> dict[str, Any]:
    """Trains a peer in this process within its budget, which counts from the process's start; then scores it."""
    from timing import Budget

    clock = Budget.since_process_start(budget)
    import numpy as np
    import torch
    import torch.nn.functional as F

    from tricks import Batch, RandomCrop, TestTimeAugmentation

    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    with np.load(data) as file:
        images, labels = torch.tensor(file["images"], device=device), torch.tensor(file["labels"], device=device).long()
    images = images.permute(0, 3, 1, 2).float() / 255
    mean, std = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)
    images, classes = ((images - mean) / std).to(memory_format=torch.channels_last), int(labels.max()) + 1
    peer = (
        airbench(classes, images)
        if peer_name == "airbench"
        else {"lenet": lenet, "resnet18": resnet18}[peer_name](classes)
    )
    network = peer.network.to(device=device, memory_format=torch.channels_last)
    step_seconds = seconds_per_step(peer, network, images, labels)
    precision = min(step_seconds, key=lambda name: step_seconds[name])
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    rates = [group["lr"] for group in peer.optimizer.param_groups]
    crop, slowest, seen = RandomCrop(peer.translate), 0.0, 0
    queue: list[Any] = []
    start, end = clock.elapsed(), budget - RESERVE
    network.train()
    order = torch.randperm(len(images))
    mirrored_next = torch.rand(len(images), device=device) < 0.5
    while clock.elapsed() + slowest < end:
        at = clock.elapsed()
        progress = (at - start) / (end - start)
        if len(order) < min(peer.batch_size, len(images)):
            order = torch.cat([order, torch.randperm(len(images))])
        chosen, order = order[: peer.batch_size].to(device), order[peer.batch_size :]
        batch = crop.batch(Batch(images[chosen], labels[chosen], progress)).images
        if peer.flip == "alternating":
            mirrored = mirrored_next[chosen]
            mirrored_next[chosen] = ~mirrored
        else:
            mirrored = torch.rand(len(chosen), device=device) < 0.5
        batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
        for group, rate in zip(peer.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * peer.factor(progress)
        with autocast(device, precision):
            logits = network(batch)
        loss = F.cross_entropy(logits.float(), labels[chosen], label_smoothing=peer.smoothing)
        peer.optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(peer.optimizer)
        scaler.update()
        peer.after_step(progress)
        if device.type == "cuda":
            queue.append(torch.cuda.Event())
            queue[-1].record()
            if len(queue) > 2:
                queue.pop(
                    0
                ).synchronize()  # at most two steps ahead of the GPU: the clock must measure work, not a queue
        seen += len(chosen)
        slowest = max(slowest * 0.9, clock.elapsed() - at)
    peer.at_end()
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall = clock.elapsed()
    network.eval()
    with np.load(test) as file:
        held, answers = torch.tensor(file["images"], device=device), torch.tensor(file["labels"], device=device)
    held = (held.permute(0, 3, 1, 2).float() / 255 - mean) / std
    forward = TestTimeAugmentation("mirror+shift").prediction(network) if peer.views else network
    with torch.no_grad():
        right = sum(
            (forward(part).argmax(1) == answer).sum().item()
            for part, answer in zip(held.split(250), answers.split(250), strict=True)
        )
    accuracy, epochs = right / len(answers), seen / len(images)
    return {"accuracy": accuracy, "epochs": epochs, "wall_seconds": wall, "precision": precision}


def autocast(device: Any, precision: str) -> Any:
    """As in `speedtrain.network.precision`, so that a peer needs nothing of ours."""
    import torch

    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, half, enabled=half is not None)


def seconds_per_step(peer: Peer, network: Any, images: Any, labels: Any) -> dict[str, float]:
    """Precision → seconds of the fastest of three passes forwards and backwards. Ours chooses alike."""
    import torch
    import torch.nn.functional as F

    from speedtrain.network.convolution import bf16_is_faster

    device = images.device
    if device.type == "cuda":
        names = ["fp32", "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"]
    else:
        names = ["fp32", "bf16"]
        if not bf16_is_faster():
            return {"fp32": 0.0}  # there is nothing to choose
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}  # statistics of norms move
    batch, targets = images[: peer.batch_size], labels[: peer.batch_size]
    taken = dict.fromkeys(names, math.inf)
    for turn in range(4):  # the first makes kernels and is not timed
        for name in names:
            started = time.monotonic()
            with autocast(device, name):
                logits = network(batch)
            F.cross_entropy(logits.float(), targets).backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                taken[name] = min(taken[name], time.monotonic() - started)
    network.zero_grad()
    network.load_state_dict(kept)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--budgets", default="60", help="seconds, separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--data", type=Path, required=True, help="training images, .npz")
    parser.add_argument("--test", type=Path, required=True, help="test images, .npz")
    parser.add_argument("--out", type=Path, default=Path("peers"))
    parser.add_argument("--plain", metavar="PEER", help=argparse.SUPPRESS)  # this process is a plain loop's own
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    budgets = [float(text) for text in options.budgets.split(",")]
    if unknown := set(options.peers.split(",")) - {*PEERS, *LIBRARIES}:
        parser.error(f"no peer {', '.join(sorted(unknown))}; there are {', '.join((*PEERS, *LIBRARIES))}")
    if options.plain:
        print(json.dumps(run_plain(options.plain, budgets[0], options.seed, options.data, options.test)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "peers.json"
    facts = {
        "data": options.data.name,
        "test": options.test.name,
        "sha256": [digest(options.data), digest(options.test)],
    }
    rows: list[dict[str, Any]] = []
    if file.exists():  # go on where it stopped
        known = json.loads(file.read_text())
        if {key: known[key] for key in facts} != facts:
            sys.exit(f"peers: {file} is of {known['data']} and {known['test']}; choose another --out")
        rows = known["rows"]
    for budget in budgets:
        for seed in range(options.seeds):
            for name in options.peers.split(","):
                if any((row["peer"], row["budget"], row["seed"]) == (name, budget, seed) for row in rows):
                    continue
                row = {"peer": name, "budget": budget, "seed": seed, "when": time.strftime("%Y-%m-%d %H:%M")}
                row |= {"commit": commit(), **run_peer(name, budget, seed, options)}
                rows.append(row)
                got = "failed" if row["accuracy"] is None else f"{row['accuracy']:.2%}  {row['epochs']:.1f} epochs"
                print(f"{budget:g} s  seed {seed}  {NAMES[name]:20}  {got}", flush=True)
                file.write_text(json.dumps({"schema": 1, **facts, "rows": rows}, indent=1))
    report(options.out, rows)


def run_peer(name: str, budget: float, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Trains and scores one peer in a process of its own; returns its row."""
    if name in ("auto", "paper"):
        from speedtrain import train
        from speedtrain.errors import UserError

        folder = options.out / f"{name}-{budget:g}-{seed}"
        shutil.rmtree(folder, ignore_errors=True)  # left by a run that was cut off
        try:
            result = train(
                budget=budget, data=str(options.data), test=str(options.test), recipe=name, seed=seed, out=folder
            )
        except UserError as error:
            return {"accuracy": None, "epochs": None, "status": str(error)[:200]}
        if result["status"] == "interrupted":
            raise KeyboardInterrupt(result["signal"])
        keys = ("accuracy", "epochs", "wall_seconds", "status")
        return {key: result[key] for key in keys} | {key: result["plan"][key] for key in ("width", "precision")}
    from speedtrain.training.process import MALLOC_SETTINGS

    command = [sys.executable]
    if name in LIBRARIES:
        images = write_image_files(options.data, options.test, options.out / "images")
        command += [str(Path(__file__).with_name("peer_libraries.py")), name, "--budget", str(budget)]
        command += ["--images", str(images)]
    else:
        command += [__file__, "--plain", name, "--budgets", str(budget)]
        command += ["--data", str(options.data), "--test", str(options.test)]
    command += ["--seed", str(seed)]
    environment = {**os.environ, "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", MALLOC_SETTINGS)}
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, timeout=budget + 600, env=environment
        )
    except subprocess.SubprocessError as error:
        return {"accuracy": None, "epochs": None, "status": str(error)[:200]}
    facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**facts, "status": "finished"}


def write_image_files(data: Path, test: Path, folder: Path) -> Path:
    """The images as PNG files in train/, val/ and test/, each with a folder for every class. Off the clock."""
    import numpy as np
    from PIL import Image

    if folder.exists():
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part, file in (("train", data), ("test", test)):
        with np.load(file) as arrays:
            written: dict[int, int] = {}
            for number, (image, label) in enumerate(zip(arrays["images"], arrays["labels"].tolist(), strict=True)):
                written[label] = written.get(label, 0) + 1
                few = part == "train" and written[label] <= VALIDATION
                for place in (part, "val") if few else (part,):
                    path = partial / place / f"{label:03}" / f"{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(image).save(path)
    return partial.rename(folder)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def commit() -> str | None:
    """The commit of this source, with `-dirty` where the source was changed; None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def report(out: Path, rows: list[dict[str, Any]]) -> None:
    """Writes `peers.md`, mean accuracy in percent ± standard deviation over seeds, and `peers.png`."""
    from statistics import mean, stdev

    from matplotlib.figure import Figure

    budgets = sorted({row["budget"] for row in rows})
    lines = ["| | " + " | ".join(f"{budget:g} s" for budget in budgets) + " |", "| --- |" + " ---: |" * len(budgets)]
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row["peer"] for row in rows):
        cells, means, spreads = [], {}, {}
        for budget in budgets:
            mine = [row for row in rows if (row["peer"], row["budget"]) == (name, budget)]
            scores = [100 * row["accuracy"] for row in mine if row["accuracy"] is not None]
            if not scores:
                cells.append("–")
                continue
            means[budget] = mean(scores)
            if len(scores) > 1:
                spreads[budget] = stdev(scores)
            cells.append(f"{mean(scores):.1f}" + (f" ± {spreads[budget]:.1f}" if budget in spreads else ""))
        lines.append(f"| {NAMES[name]} | " + " | ".join(cells) + " |")
        if means:
            (line,) = axes.plot([*means], [*means.values()], "o-", label=NAMES[name])
            several = [means[budget] for budget in spreads]
            axes.errorbar([*spreads], several, [*spreads.values()], fmt="none", color=line.get_color(), capsize=4)
    axes.set_xscale("log")
    axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
    axes.minorticks_off()
    axes.set_xlabel("budget (s)")
    axes.set_ylabel("accuracy (%), mean and standard deviation over seeds")
    axes.grid(color="#e0e0e0")
    figure.legend(frameon=False, loc="outside right upper")
    figure.savefig(out / "peers.png", dpi=140)
    (out / "peers.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
