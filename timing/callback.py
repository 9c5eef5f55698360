"""The budget in a Lightning trainer."""

import math
from collections.abc import Callable

import lightning as L
import torch

from timing.clock import Budget
from timing.ledger import Ledger
from timing.pacer import Pacer, RecordedPacer


class BudgetCallback(L.Callback):
    """Stops a fit when its budget is used up, drives the learning rate by the clock, and keeps the ledger.

    Lightning's own `max_time` stops a fit too, but late (it looks at the clock after a step and counts from
    the start of the fit), and the learning-rate schedule does not know about it. This callback begins no step
    that would not end in time, counts from the start of the process (or from `Budget.started`), and gives each
    step its `progress`. Under a distributed strategy rank 0's clock counts for all.

    A validation in the middle counts as part of the step before it; there is none after the last step.

    Args:
        budget: seconds from the start of this process, or a `Budget`.
        reserve: seconds of the budget to keep for what comes after the fit; where the fit validates, at least
            the length of a validation.
        lr_schedule: progress → factor on each parameter group's initial learning rate, set before every step.
        ledger: where to book the phases `train` and `validate`; default: a new one, in `.ledger`.
        pacer: where progress comes from; default: the clock.
    """

    def __init__(
        self,
        budget: float | Budget,
        *,
        reserve: float = 0.25,
        lr_schedule: Callable[[float], float] | None = None,
        ledger: Ledger | None = None,
        pacer: Pacer | RecordedPacer | None = None,
    ) -> None:
        self.budget = budget if isinstance(budget, Budget) else Budget.since_process_start(budget)
        self.ledger = ledger or Ledger(self.budget.started)
        self.progress = 0.0
        self._pacer = pacer or Pacer(self.budget, reserve)
        self._lr_schedule = lr_schedule
        self.stopped = False

    def stop(self) -> None:
        """Ends the fit after the step at hand. Safe to call from a signal handler."""
        self.stopped = True

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.ledger.switch("train")
        self._limit_val_batches = trainer.limit_val_batches
        self._advance(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self._advance(trainer)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.ledger.switch("validate")

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.ledger.switch("train")

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.ledger.switch()

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        trainer.limit_val_batches = self._limit_val_batches  # the trainer may validate afterwards

    def _advance(self, trainer: L.Trainer) -> None:
        progress = None if self.stopped else self._pacer.next()
        if trainer.world_size > 1:
            told = torch.tensor(math.nan if progress is None else progress, dtype=torch.float64)
            told = told.to(trainer.strategy.root_device)
            torch.distributed.broadcast(told, src=0)
            progress = None if told.isnan() else told.item()
        if progress is None:
            trainer.should_stop = True
            trainer.limit_val_batches = 0  # Lightning would validate once more, which may take any time
            return
        self.progress = progress
        if self._lr_schedule is not None:
            factor = self._lr_schedule(progress)
            for optimizer in trainer.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
