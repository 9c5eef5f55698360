"""Keeps what training has reached: weights on disk, the record of the clock, metrics; and repairs blow-ups."""

import copy
import csv
import io
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
from speedtrain.training.lightning_module import Training
from speedtrain.training.step_log import StepLog
from speedtrain.training.thread_controller import ThreadController
from timing import BudgetCallback, Pacer, RecordedPacer, send_event
from tricks import Trick

FIRST_SAVE = 1.0  # seconds into training
SAVE_EVERY = 2.0  # seconds at least, and
SAVE_SHARE = 0.005  # of the time at most
REPORT_EVERY = 0.5  # seconds
LEAVE_SECONDS = 0.15  # from the last save to the end of the process, with a margin
CHECK_EVERY_ON_GPU = 32  # steps
METRICS = ("seconds", "progress", "step", "epoch", "loss", "lr", "images_per_second", "side")


class CheckpointCallback(L.Callback):
    """Before every step: sets progress, learning rate and threads. After it: averages weights, records what the
    clock and the crew decided, and from time to time reports and saves.

    Its clock decides when to save; the decisions are recorded, since a blow-up falls back on the last save.
    A loss that is not finite, or weights that are not, bring back the last saved state and halve the
    learning rate.

    Args:
        run: folder for `clock.csv` and `metrics.csv`.
        training: what is kept.
        clock: gives progress and the seconds since start.
        pacer: of that clock; is told how long a save takes, to keep that long for the last one.
        thread_controller: how many threads to use.
        replay: follow this record instead of the clock.
        say: tells a person one line.
        weights: the file for the weights; default: `weights.safetensors` in the run's folder.
        about: facts to store with them, that they may be loaded by themselves.
    """

    def __init__(
        self,
        run: Path,
        training: Training,
        clock: BudgetCallback,
        pacer: Pacer | RecordedPacer,
        thread_controller: ThreadController,
        replay: StepLog | None,
        say: Callable[[str], None],
        *,
        weights: Path | None = None,
        about: Mapping[str, object] | None = None,
    ) -> None:
        self.run, self.training, self.clock, self.pacer = run, training, clock, pacer
        self.thread_controller, self.replay, self.say = thread_controller, replay, say
        self.weights, self.about = weights or run / "weights.safetensors", about or {}
        self.lr_factor = 1.0
        self.repairs = 0
        self.images_seen = 0
        self._clock_file = _Appended(run / "clock.csv", "step,progress,threads,snapshot\n")
        self._metrics_file = _Appended(run / "metrics.csv", ",".join(METRICS) + "\n")
        self._next_save = self._next_report = 0.0
        self._rate, self._rate_since = 0.0, (0.0, 0)
        self._disk_full = False
        self._repaired_at = -1
        self._threads_of_steps = 0
        self._queued: deque[torch.cuda.Event] = deque()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self.clock.stop())  # ends early, and still saves
        self._averaging: Sequence[Trick] = [trick for trick in self.training.tricks if "weights" in trick.stages()]
        self._kept = self._live = dict(self.training.classifier.state_dict())
        for group in self.training.optimizer.param_groups:  # here, so that what is fallen back on has it too
            group.setdefault("initial_lr", group["lr"])
        self._snapshot()
        self._rate_since = (time.monotonic(), 0)
        self._next_save = time.monotonic() + FIRST_SAVE
        self._next_report = time.monotonic() + REPORT_EVERY

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Tensor, batch_idx: int
    ) -> None:
        self.training.progress = self.clock.progress
        threads = self.replay.threads[self.training.num_steps] if self.replay else self.thread_controller.update()
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
        for group in self.training.optimizer.param_groups:
            group["lr"] *= self.lr_factor

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: object, batch: Tensor, batch_idx: int
    ) -> None:
        self.images_seen += len(batch)
        self._threads_of_steps += torch.get_num_threads()
        self._kept = self._live
        for trick in self._averaging:
            self._kept = trick.weights(self._kept, self.training.num_steps)
        now = time.monotonic()
        step = self.training.num_steps
        due = step in self.replay.snapshots if self.replay else now >= self._next_save
        on_gpu = self.training.device.type == "cuda"
        if on_gpu:
            self._wait_for_gpu()
        # on a GPU every look at the loss waits for it
        look = not on_gpu or due or step % CHECK_EVERY_ON_GPU == 0
        if look and not self._finite(also_weights=due):
            self._fall_back()
        elif due:
            self._snapshot()
        self._clock_file.add(f"{step},{self.training.progress!r},{torch.get_num_threads()},{int(due)}\n")
        if due:
            self._save()
        if now >= self._next_report:
            self._report(now)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.training.num_steps == 0:
            return
        if self._repaired_at != self.training.num_steps and not self._finite(also_weights=True):
            self._fall_back()
        self._report(time.monotonic())
        self._save()

    def _wait_for_gpu(self) -> None:
        """Lets the host run two steps ahead of the GPU and no more: the clock is to measure work, not a queue."""
        event = torch.cuda.Event()
        event.record()
        self._queued.append(event)
        if len(self._queued) > 2:
            self._queued.popleft().synchronize()

    def _finite(self, also_weights: bool) -> bool:
        assert self.training.last_loss is not None
        sound = self.training.last_loss.isfinite()
        if also_weights:
            tensors = [t for t in (*self._live.values(), *self._kept.values()) if t.is_floating_point()]
            sound = sound & torch.stack(torch._foreach_norm(tensors)).isfinite().all()
        return bool(sound)

    def _snapshot(self) -> None:
        self._good = copy.deepcopy(
            (
                self._live,
                self._kept,
                self.training.optimizer.optimizer.state_dict(),
                [each.__dict__ for each in (self.training.loss_scale, *self._averaging)],
            )
        )
        self._good_step = self.training.num_steps

    def _fall_back(self) -> None:
        live, self._kept, optimizer, states = copy.deepcopy(self._good)
        self.training.classifier.load_state_dict(live)
        self.training.optimizer.optimizer.load_state_dict(optimizer)
        for each, state in zip((self.training.loss_scale, *self._averaging), states, strict=True):
            each.__dict__.update(state)
        self._repaired_at = self.training.num_steps
        self.lr_factor /= 2
        self.repairs += 1
        if self.repairs & (self.repairs - 1) == 0:  # the 1st, 2nd, 4th, 8th, …: who diverges does so again and again
            self.say(
                f"step {self.training.num_steps}: the loss is not finite (time {self.repairs}); back to the weights of "
                f"step {self._good_step}, learning rate halved (now {self.lr_factor:g} of the plan's)"
            )

    def _save(self) -> None:
        begun = time.monotonic()
        with self.clock.ledger.phase("save"):
            try:
                self._clock_file.flush()  # before the weights: no weights without the record of their making
                self._metrics_file.flush()
                save_weights(self.weights, self._kept, {**self.about, **self._reached()})
                self._disk_full = False
            except OSError as error:
                if not self._disk_full:
                    kept = "the last whole save is kept" if self.weights.exists() else "nothing is saved yet"
                    self.say(f"step {self.training.num_steps}: could not save ({error}); {kept}")
                    send_event({"event": "unsaved", "error": str(error)[:600]})
                self._disk_full = True
        seconds = time.monotonic() - begun
        self._next_save = time.monotonic() + max(SAVE_EVERY, seconds / SAVE_SHARE)
        if isinstance(self.pacer, Pacer):
            self.pacer.reserve = LEAVE_SECONDS + 1.5 * seconds

    def _reached(self) -> dict[str, Any]:
        """How far training is: goes into the weights, should nobody be there to hear of it."""
        return {
            "step": self.training.num_steps,
            "progress": self.training.progress,
            "images_seen": self.images_seen,
            "threads": round(self._threads_of_steps / self.training.num_steps, 2),
            "repairs": self.repairs,
            "phases": self.clock.ledger.phases(),
        }

    def _report(self, now: float) -> None:
        began, images = self._rate_since
        if now - began >= REPORT_EVERY:  # over less, at the very end, it would be a matter of chance
            self._rate = (self.images_seen - images) / (now - began)
            self._rate_since = (now, self.images_seen)
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
            "images_per_second": round(self._rate, 1),
            "side": self.training.last_side,
        }
        text = io.StringIO()
        csv.DictWriter(text, METRICS, lineterminator="\n").writerow(row)
        self._metrics_file.add(text.getvalue())
        send_event({"event": "step", **row, **self._reached()})


class _Appended:
    """A text file that grows; what a full disk cut off is written again when there is room."""

    def __init__(self, path: Path, header: str) -> None:
        self._path, self._pending, self._size = path, header, 0

    def add(self, text: str) -> None:
        self._pending += text

    def flush(self) -> None:
        content = self._pending.encode()
        with open(self._path, "r+b" if self._path.exists() else "wb") as file:
            file.truncate(self._size)
            file.seek(self._size)
            file.write(content)
        self._size, self._pending = self._size + len(content), ""
