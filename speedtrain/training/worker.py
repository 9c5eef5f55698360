"""The process that trains: plan → train → save, inside the budget, which began when this process started.

Of several networks, it leads the processes that train them.

The parent process runs it as `python -m speedtrain.training.worker FOLDER`, with a `Job` in the folder. The weights and
logs go to the run's directory; progress and messages go to the parent process as events.
"""

import contextlib
import ctypes
import gc
import logging
import math
import os
import resource
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from speedtrain.chosen_tricks import with_planned
from speedtrain.machine import available_cores
from speedtrain.thread_controller import ThreadController
from speedtrain.training.imports import import_lightning
from timing import Budget, Ledger, Pacer, RecordedPacer, send_event

if TYPE_CHECKING:
    import numpy as np

    from speedtrain.config import Config
    from speedtrain.training.step_log import StepLog


def send_message(line: str) -> None:
    """Sends one line to the user, through the parent process, and writes it to the log."""
    with contextlib.suppress(OSError):  # the log is on the disk that may be full
        print(line, flush=True)
    send_event({"event": "message", "text": line[:600]})


def largest_memory() -> int:
    """Bytes of memory that this process has held at most."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest


def give_memory_back() -> None:
    """Gives freed memory back to the GPU, and to the system, where `MALLOC_SETTINGS` would keep it.

    Only the GNU C library can do the second.
    """
    import torch

    gc.collect()  # what was measured is in circles of references, with the images
    torch.cuda.empty_cache()  # does nothing where no GPU is in use
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


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
    facts: Mapping[str, object] | None = None,
    targets: "np.ndarray | None" = None,
    start: bytes | None = None,
    or_members: "Sequence[Config]" = (),
    scratch: Path | None = None,
) -> int:
    """Trains by the clock, and saves again and again to `run`.

    Args:
        config: the configuration; the plan replaces what is `auto` in it.
        images: uint8 [N, H, W, 3].
        labels: int64 [N].
        classes: their names.
        run: directory for `clock.csv`, `metrics.csv` and the weights.
        ledger: the phases of this process; the budget counts from where it began.
        replay: train by this log instead of the clock; default: by the clock.
        max_steps: end after so many steps, whatever the clock says; default: no such limit.
        plan_only: plan without training, and measure even where nothing is left to decide; default: no.
        weights: file for the weights; default: `run/weights.safetensors`.
        facts: JSON values to store with the weights; default: none.
        targets: float32 [N, K], to train on instead of the labels; default: none.
        start: a safetensors file of weights to start from; what it lacks is random; default: all are random.
        or_members: several networks to train in place of this one, or these more than once, where their average is
            predicted to be more accurate. This process then leads theirs, and trains nothing itself; default: none.
        scratch: a folder for their jobs, as for `train_members`; needed with `or_members`.

    Returns:
        How many images training saw, repetitions included.

    Raises:
        RuntimeError: a step fails, or of several networks all do.
    """
    thread_controller = ThreadController(config.threads or available_cores())
    num_classes = len(classes)
    with ledger.phase("import"):
        L = import_lightning()
        import safetensors.torch
        import torch
        from lightning.fabric.plugins.environments import LightningEnvironment

        from speedtrain.network.precision import configure_device
        from speedtrain.training.batch_order import BatchOrder
        from speedtrain.training.checkpoint import CheckpointCallback
        from speedtrain.training.divergence import DivergenceGuard
        from speedtrain.training.epoch_limit import epoch_limit
        from speedtrain.training.lightning_module import build_training
        from speedtrain.training.memory_guard import MemoryGuard
        from speedtrain.training.one_or_several import considered_numbers, weigh
        from speedtrain.training.planner import make_plan
        from timing import BudgetCallback

        # Lightning's advice (more data-loader workers, …) is not for this loop
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning")

    unlimited = replay is not None or max_steps is not None
    budget = Budget(math.inf if unlimited else config.budget, ledger.started)
    with ledger.phase("data"):
        device = torch.device(config.device)
        configure_device(device)
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # and nothing writes to it
        stored = torch.as_tensor(images, device=device)  # on a CPU not a copy
        numbers = torch.tensor(labels, device=device)
        soft = None if targets is None else torch.tensor(targets, device=device)

    with ledger.phase("plan"):  # in a replay nothing is left to decide
        torch.set_num_threads(thread_controller.initial())
        left = max(0.0, config.budget - budget.elapsed())
        at_once = considered_numbers(config, or_members, stored.shape[1], len(stored), num_classes)
        plan = make_plan(config, stored, numbers, num_classes, left, plan_only=plan_only, at_once=at_once)
        several: tuple[Config, ...] = ()
        if not plan.added_fits:
            config.in_long_runs = None
        if or_members:
            several, reason = weigh(
                config,
                plan,
                or_members,
                len(stored),
                num_classes,
                spent=budget.elapsed(),
                memory=largest_memory(),
            )
            kept = [] if several else plan.reasons  # the rest is about a network that is not trained
            plan.reasons = [*kept, *([] if reason is None else [reason])]
        config.batch_size, config.precision = plan.batch_size, plan.precision
        config.width = plan.width or config.width
        config.tricks = with_planned(config.tricks, plan.ranks, plan.added)
        kind = {"event": "members", "number": len(several)} if several else {"event": "plan"}
        send_event({**kind, "plan": plan.as_dict()})
    if several:
        from speedtrain.training.members import train_members

        assert scratch is not None
        del stored, numbers, soft
        give_memory_back()
        if plan_only:  # the members' time begins when this process has planned
            several = tuple(replace(member, budget=config.budget - budget.elapsed()) for member in several)
        return train_members(
            several,
            images,
            labels,
            classes,
            run,
            ledger=ledger,
            scratch=scratch,
            max_steps=max_steps,
            plan_only=plan_only,
            weights=weights,
            facts=facts,
            targets=targets,
        )
    if plan_only:
        return 0
    send_event({"event": "phase", "phases": ledger.phases()})  # in case nothing more is heard of this process

    with ledger.phase("build"):
        torch.set_num_threads(1)  # the whitening's bits must not depend on how busy the machine is now
        torch.manual_seed(config.seed)
        training = build_training(
            config, stored, numbers, num_classes, width=plan.width, precision=plan.precision, targets=soft
        )
        if start is not None:  # the parent process has checked that it fits
            training.classifier.load_state_dict(safetensors.torch.load(start), strict=False)
        assert isinstance(config.batch_size, int)
        order = BatchOrder(len(stored), config.batch_size, config.seed, device)
        divergence = DivergenceGuard(training, training.tricks)
        recorded = replay.batch_sizes if replay else None
        memory = MemoryGuard(training, order, divergence, config.seed, send_message, recorded)

        most_epochs = epoch_limit(config, len(stored)) if max_steps is None else math.inf

        def share_of_epochs() -> float:
            return checkpoint.images_seen / (most_epochs * len(stored))

        pacer = Pacer(budget, done=share_of_epochs) if replay is None else RecordedPacer(replay.progress)
        clock = BudgetCallback(
            budget,
            lr_schedule=lambda progress: config.lr_factor(progress) * divergence.lr_factor * memory.lr_factor,
            ledger=ledger,
            pacer=pacer,
        )
        network = {"model": config.model, "width": config.width, "head_scale": config.head_scale}
        facts = {
            **(facts or {}),
            "network": {**network, "tricks": config.tricks},
            "images": {"side": plan.side, "fit": config.fit, "pixel_max": config.pixel_max},
            "classes": list(classes),
        }
        checkpoint = CheckpointCallback(
            run,
            training,
            clock,
            pacer,
            thread_controller,
            divergence,
            replay,
            send_message,
            weights=weights,
            facts=facts,
            snapshots=0 if unlimited else config.snapshots,
        )
        trainer = L.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index or 0] if device.type == "cuda" else 1,
            max_epochs=-1,
            max_steps=-1 if max_steps is None else max_steps,
            callbacks=[checkpoint, clock],  # in this order: the clock decides about the next step after a save
            plugins=[LightningEnvironment()],  # one process, also where a cluster would suggest more
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    trainer.fit(training, order)
    all_epochs = replay is None and share_of_epochs() >= 1
    done = {"event": "done", "step": training.num_steps, "stopped": clock.stopped, "all_epochs": all_epochs}
    send_event({**done, "phases": ledger.phases()})
    return checkpoint.images_seen


def main(folder: Path) -> None:
    """Does the job in the folder."""
    ledger = Ledger()
    # Until training begins there is nothing to save. Without this handler Lightning would install one of its own.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    with ledger.phase("import"):
        from speedtrain.training.job import Job
        from speedtrain.training.step_log import StepLog
    with ledger.phase("data"):
        job, images, labels, targets, start = Job.take(folder)
    if job.ends_at is not None:
        job.config.budget = max(0.1, job.ends_at - ledger.started)
    facts = {"data_sha256": job.data_sha256, "started_from": job.started_from}
    if job.members:
        from speedtrain.training.members import train_members

        train_members(
            job.members,
            images,
            labels,
            job.classes,
            job.run,
            ledger=ledger,
            scratch=folder,
            replay=job.replay and job.replay.log.parent,
            max_steps=job.max_steps,
            plan_only=job.plan_only,
            facts=facts,
            targets=targets,
        )
        return
    train(
        job.config,
        images,
        labels,
        job.classes,
        job.run,
        ledger=ledger,
        replay=StepLog.read(*job.replay) if job.replay else None,
        max_steps=job.max_steps,
        plan_only=job.plan_only,
        facts=facts,
        targets=targets,
        start=start,
        or_members=job.or_members,
        scratch=folder,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)  # the interpreter's clean-up would use up budget, and there is nothing to clean up
