"""The checkpoint callback: what happens around every step of a run."""

import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from speedtrain.model.weights import save_weights
from speedtrain.thread_controller import ThreadController
from speedtrain.training.averaged_or_last import LEAST_STEPS, MOST_OF_BUDGET, reason_for_last, seconds_to_compare
from speedtrain.training.divergence import DivergenceGuard
from speedtrain.training.kept_weights import FOLDER, KeptWeights
from speedtrain.training.lightning_module import Training
from speedtrain.training.metrics import MetricsWriter, Speed
from speedtrain.training.step_log import StepLog, StepLogWriter
from timing import BudgetCallback, Pacer, RecordedPacer, send_event
from tricks import Trick

FIRST_SAVE = 1.0  # seconds into training
SAVE_EVERY = 2.0  # seconds at least, and
SAVE_SHARE = 0.005  # of the time at most
REPORT_EVERY = 0.5  # seconds
EXIT_SECONDS = 0.15  # from the last save to the end of the process, with a margin
CHECK_EVERY_ON_GPU = 32  # steps


class CheckpointCallback(L.Callback):
    """Before every step, sets the number of threads. After every step, averages weights, checks that they are finite,
    logs what the clock decided, and from time to time saves and reports.

    The clock decides when to save. These decisions are logged, since training that diverges returns to the state of
    the last save (`DivergenceGuard`).

    Args:
        run: folder for `clock.csv` and `metrics.csv`.
        training: what is saved.
        clock: gives progress, and the seconds since the process started.
        pacer: of that clock; gets the duration of a save, to reserve as much time for the last one.
        thread_controller: how many threads to use.
        divergence: takes training back where it diverges.
        replay: follow this log instead of the clock; None: follow the clock.
        send_message: shows a person one line.
        weights: file for the weights; default: `weights.safetensors` in the run's folder.
        facts: JSON values to store with the weights; default: none.
        snapshots: from how many instants to keep the weights; default: 0.
    """

    def __init__(
        self,
        run: Path,
        training: Training,
        clock: BudgetCallback,
        pacer: Pacer | RecordedPacer,
        thread_controller: ThreadController,
        divergence: DivergenceGuard,
        replay: StepLog | None,
        send_message: Callable[[str], None],
        *,
        weights: Path | None = None,
        facts: Mapping[str, object] | None = None,
        snapshots: int = 0,
    ) -> None:
        self.training, self.clock, self.pacer = training, clock, pacer
        self.thread_controller, self.divergence, self.replay = thread_controller, divergence, replay
        self.send_message = send_message
        self.weights, self.facts = weights or run / "weights.safetensors", facts or {}
        self.images_seen = 0
        self._kept_in, self._snapshots = run / FOLDER, snapshots
        self._step_log = StepLogWriter(run / "clock.csv")
        self._metrics = MetricsWriter(run / "metrics.csv")
        self._next_save = self._next_report = 0.0
        self._disk_full = self._last_weights = False
        self._seconds_to_save = 0.0
        self._threads_of_steps = 0
        self._queued: deque[torch.cuda.Event] = deque()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self.clock.stop())  # ends early, and still saves
        self._averaging: Sequence[Trick] = [trick for trick in self.training.tricks if "weights" in trick.stages()]
        self._averaged = self._live = dict(self.training.classifier.state_dict())
        for group in self.training.optimizer.param_groups:  # here, so that the first snapshot has it too
            group.setdefault("initial_lr", group["lr"])
        self.divergence.snapshot(self._averaged)
        elapsed = self.clock.budget.elapsed()
        self._kept = KeptWeights(self._kept_in, self._snapshots, elapsed + FIRST_SAVE, self.clock.budget.seconds)
        self._speed = Speed(REPORT_EVERY)
        self._next_save = time.monotonic() + FIRST_SAVE
        self._next_report = time.monotonic() + REPORT_EVERY

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Tensor, batch_idx: int
    ) -> None:
        self.training.progress = self.clock.progress
        threads = self.replay.threads[self.training.num_steps] if self.replay else self.thread_controller.update()
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: object, batch: Tensor, batch_idx: int
    ) -> None:
        self.images_seen += self.training.last_batch_size
        self._threads_of_steps += torch.get_num_threads()
        self._averaged = self._live
        for trick in self._averaging:
            self._averaged = trick.weights(self._averaged, self.training.num_steps)
        now = time.monotonic()
        step = self.training.num_steps
        elapsed = self.clock.budget.elapsed()
        keep = self._kept.due(elapsed)
        due = step in self.replay.snapshots if self.replay else keep or now >= self._next_save
        on_gpu = self.training.device.type == "cuda"
        if on_gpu:
            self._wait_for_gpu()
        # on a GPU every look at the loss waits for it
        look = not on_gpu or due or step % CHECK_EVERY_ON_GPU == 0
        if look and not self.divergence.is_finite(self._averaged if due else None):
            self._roll_back()
        elif due:
            self.divergence.snapshot(self._averaged)
        self._step_log.add(step, self.training.progress, torch.get_num_threads(), due, self.training.last_batch_size)
        if due:
            self._save()
        if keep and not self._disk_full:
            with contextlib.suppress(OSError):  # the run's own weights come first
                self._kept.keep(self.weights, elapsed)
        if now >= self._next_report:
            self._report(now)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.training.num_steps == 0:
            return
        if not self.divergence.rolled_back_now and not self.divergence.is_finite(self._averaged):
            self._roll_back()
        self._report(time.monotonic())
        self._save()
        reason = self._reason_for_last()
        if reason is not None:
            self._averaged, self._last_weights = self._live, True
            self._save()
            if reason and not self._disk_full:
                self.send_message(reason)

    def _wait_for_gpu(self) -> None:
        """Lets the host run two steps ahead of the GPU and no more: the clock is to measure work, not a queue."""
        event = torch.cuda.Event()
        event.record()
        self._queued.append(event)
        if len(self._queued) > 2:
            self._queued.popleft().synchronize()

    def _roll_back(self) -> None:
        self._averaged, message = self.divergence.roll_back()
        if message is not None:
            self.send_message(message)

    def _save(self) -> None:
        started = time.monotonic()
        with self.clock.ledger.phase("save"):
            try:
                self._step_log.flush()  # before the weights: no weights without the log of their making
                self._metrics.flush()
                save_weights(self.weights, self._averaged, {**self.facts, **self._state()})
                self._disk_full = False
            except OSError as error:
                if not self._disk_full:
                    kept = "the last whole save is kept" if self.weights.exists() else "nothing is saved yet"
                    self.send_message(f"step {self.training.num_steps}: could not save ({error}); {kept}")
                    send_event({"event": "save_failed", "error": str(error)[:600]})
                self._disk_full = True
        seconds = time.monotonic() - started
        self._next_save = time.monotonic() + max(SAVE_EVERY, seconds / SAVE_SHARE)
        if isinstance(self.pacer, Pacer):
            self._seconds_to_save = 1.5 * seconds
            needed = self._seconds_to_compare() if self._averaging else 0.0
            affordable = needed <= MOST_OF_BUDGET * self.clock.budget.seconds
            self.pacer.reserve = EXIT_SECONDS + self._seconds_to_save + (needed if affordable else 0.0)

    def _seconds_to_compare(self) -> float:
        """Of averaged and last weights, at the end, and to save once more."""
        step = self.pacer.slowest_step() if isinstance(self.pacer, Pacer) else 0.0
        return seconds_to_compare(self.training, step) + self._seconds_to_save

    def _reason_for_last(self) -> str | None:
        """Why the last weights are to be kept in place of the averaged ones; None where the averaged ones are.

        A replay does what the run did, and gives no reason: an empty one.
        """
        if self.replay is not None:
            return "" if self.replay.last_weights else None
        if not self._averaging or self.clock.stopped or self.training.num_steps < LEAST_STEPS or self._disk_full:
            return None
        left = self.clock.budget.seconds - self.clock.budget.elapsed()
        if left < EXIT_SECONDS + self._seconds_to_compare():
            return None
        try:
            return reason_for_last(self.training, self._averaged)
        except RuntimeError as error:  # a GPU's memory may be short
            why = " ".join(str(error).split())[:200]
            self.send_message(f"averaged and last weights could not be compared ({why}); the averaged ones are kept")
            return None

    def _state(self) -> dict[str, Any]:
        """How far training is. Stored with the weights too, in case the parent process misses the events."""
        return {
            "step": self.training.num_steps,
            "progress": self.training.progress,
            "images_seen": self.images_seen,
            "threads": round(self._threads_of_steps / self.training.num_steps, 2),
            "rollbacks": self.divergence.rollbacks,
            "last_weights": self._last_weights,
            "batch_size": self.training.last_batch_size,
            "phases": self.clock.ledger.phases(),
        }

    def _report(self, now: float) -> None:
        self._next_report = now + REPORT_EVERY
        assert self.training.last_loss is not None
        group = self.training.optimizer.param_groups[0]  # maybe Muon's, with a rate of its own
        row: dict[str, Any] = {
            "seconds": round(self.clock.budget.elapsed(), 3),
            "progress": round(self.training.progress, 6),
            "step": self.training.num_steps,
            "epoch": round(self.images_seen / self.training.num_images, 3),
            "loss": self.training.last_loss.item(),
            "lr": self.training.lr * group["lr"] / group["initial_lr"],
            "images_per_second": round(self._speed.update(now, self.images_seen), 1),
            "side": self.training.last_side,
        }
        self._metrics.add(row)
        send_event({"event": "step", **row, **self._state()})
