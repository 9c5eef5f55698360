"""The process that trains: plan → train → save, inside the budget that began at its start.

Run by the front as `python -m speedtrain.training.worker JOB`, with JOB a folder that holds `job.json`, `images.npy`
and `labels.npy`. What it reaches it saves in the run's folder; what it has to say it sends as events.
"""

import contextlib
import importlib.metadata
import json
import logging
import math
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speedtrain.machine import available_cores
from speedtrain.training.thread_controller import ThreadController
from timing import Budget, Ledger, Pacer, RecordedPacer, send_event

if TYPE_CHECKING:
    import numpy as np

    from speedtrain.config import Config
    from speedtrain.training.step_log import StepLog

MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592"
"""Keep freed memory and use huge pages: every step allocates the same activations again, and without this the
kernel takes them back and clears them each time (7 % of a step on a CPU). Other C libraries ignore it."""


UNUSED_BY_LIGHTNING = ("torchvision", "scipy", "matplotlib")
"""Packages that Lightning would import for nothing: see `hide_packages`."""


def say(line: str) -> None:
    """Tells the person who waits, and the log."""
    with contextlib.suppress(OSError):  # the log is on the disk that may be full
        print(line, flush=True)
    send_event({"event": "say", "text": line[:600]})


def train(
    config: "Config",
    images: "np.ndarray",
    labels: "np.ndarray",
    classes: Sequence[str],
    run: Path,
    *,
    ledger: Ledger,
    replay: "StepLog | None" = None,
    max_steps: int | None = None,
    plan_only: bool = False,
    weights: Path | None = None,
    about: Mapping[str, object] | None = None,
) -> int:
    """Trains by the clock, saving as it goes to `run`.

    Args:
        images: uint8 [N, H, W, 3]; labels: int64 [N].
        classes: their names.
        ledger: the books, open since start; the budget counts from there too.
        replay: train by this record instead of the clock.
        max_steps: end after so many steps, whatever the clock says.
        plan_only: only plan, and measure even where nothing is left to decide.
        weights: file for the weights; default: `run/weights.safetensors`.
        about: facts to store with them.

    Returns:
        How many images were seen, repetitions included.
    """
    thread_controller = ThreadController(config.threads or available_cores())
    num_classes = len(classes)
    with ledger.phase("import"):
        with hide_packages(*UNUSED_BY_LIGHTNING):
            import lightning as L
        import torch
        from lightning.fabric.plugins.environments import LightningEnvironment

        from speedtrain.training.checkpoint import CheckpointCallback
        from speedtrain.training.lightning_module import Order, build_training, configure_device
        from speedtrain.training.planner import make_plan
        from timing import BudgetCallback

        # Lightning's advice (more data-loader workers, …) is not for this loop
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning")

    unlimited = replay is not None or max_steps is not None
    budget = Budget(math.inf if unlimited else config.budget, ledger.started)
    with ledger.phase("data"):
        device = torch.device("cuda" if config.device == "cuda" else "cpu")
        configure_device(device)
        stored = torch.tensor(images, device=device)
        targets = torch.tensor(labels, device=device)

    with ledger.phase("plan"):  # in a replay nothing is left to decide
        torch.set_num_threads(thread_controller.initial())
        left = max(0.0, config.budget - budget.elapsed())
        plan = make_plan(config, stored, targets, num_classes, left, plan_only=plan_only)
        config.batch_size, config.precision = plan.batch_size, plan.precision
        config.width = plan.width or config.width
        send_event({"event": "plan", "plan": plan.as_dict()})
    if plan_only:
        return 0
    send_event({"event": "phase", "phases": ledger.phases()})  # should this be the last that is heard

    with ledger.phase("build"):
        torch.set_num_threads(1)  # the whitening's bits must not depend on how busy the machine is now
        torch.manual_seed(config.seed)
        training = build_training(config, stored, targets, num_classes, width=plan.width, precision=plan.precision)
        assert isinstance(config.batch_size, int)
        order = Order(len(stored), config.batch_size, config.seed, device)
        pacer = Pacer(budget) if replay is None else RecordedPacer(replay.progress)
        clock = BudgetCallback(budget, lr_schedule=config.lr_factor, ledger=ledger, pacer=pacer)
        network = {"model": config.model, "width": config.width, "head_scale": config.head_scale}
        facts = {**(about or {}), "network": {**network, "tricks": config.tricks}, "classes": list(classes)}
        checkpoint = CheckpointCallback(
            run, training, clock, pacer, thread_controller, replay, say, weights=weights, about=facts
        )
        trainer = L.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            max_epochs=-1,
            max_steps=-1 if max_steps is None else max_steps,
            callbacks=[checkpoint, clock],  # keeping first: the clock looks after it
            plugins=[LightningEnvironment()],  # one process, also where a cluster would suggest more
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    trainer.fit(training, order)
    send_event({"event": "done", "step": training.num_steps, "stopped": clock.stopped, "phases": ledger.phases()})
    return checkpoint.images_seen


@contextlib.contextmanager
def hide_packages(*packages: str) -> Iterator[None]:
    """Inside, packages look as if they were not installed.

    torchmetrics, which Lightning imports, imports these for metrics that nobody here computes, if it finds them: more
    than a second of a budget. A process that is ours alone computes none, so that nobody misses them.
    """
    hidden = {name for name in packages if name not in sys.modules}
    version = importlib.metadata.version

    def visible_version(distribution_name: str) -> str:  # some will keep this function: outside it tells the truth
        if distribution_name in hidden:
            raise importlib.metadata.PackageNotFoundError(distribution_name)
        return version(distribution_name)

    importlib.metadata.version = visible_version
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not to be found
    try:
        yield
    finally:
        importlib.metadata.version = version
        for name in hidden:
            del sys.modules[name]
        hidden.clear()


def main(job: Path) -> None:
    """Does the job that the front left in a folder."""
    ledger = Ledger()
    # Until training begins nothing is there to save. Said so that Lightning does not make an exit of its own of it.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    with ledger.phase("import"):
        import numpy as np

        from speedtrain.config import Config
        from speedtrain.training.step_log import StepLog
    with ledger.phase("data"):
        told: dict[str, Any] = json.loads((job / "job.json").read_text(encoding="utf-8"))
        config = Config(**told["config"])
        replay = StepLog.read(Path(told["replay"]), told["replay_steps"]) if told["replay"] else None
        images, labels = np.load(job / "images.npy"), np.load(job / "labels.npy")
        shutil.rmtree(job, ignore_errors=True)  # the images should not lie about, should the front be killed
    train(
        config,
        images,
        labels,
        told["classes"],
        Path(told["run"]),
        ledger=ledger,
        replay=replay,
        max_steps=told["max_steps"],
        plan_only=told["plan_only"],
        about=told["about"],
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)  # the interpreter's tidying up would be on the clock, and nothing is left to tidy
