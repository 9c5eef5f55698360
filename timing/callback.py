"""The budget in a Lightning trainer."""

import math
from collections.abc import Callable

import lightning as L
import torch

from timing.clock import Budget
from timing.ledger import Ledger
from timing.pacer import Pacer, RecordedPacer


class BudgetCallback(L.Callback):
    """Stops a fit when its budget is used up, drives the learning rate by the clock, and records the phases.

    Lightning's own `max_time` also stops a fit, but late: it checks the clock after a step and counts from the start
    of the fit. It does not drive the learning-rate schedule either. This callback starts no step that would end too
    late, counts from the start of the process (or from `Budget.started`), and gives each step its `progress`. Under a
    distributed strategy, rank 0's clock counts for all ranks.

    A validation between steps counts as part of the previous step. The last step is not followed by a validation.

    Args:
        budget: seconds from the start of this process, or a `Budget`.
        reserve: seconds of the budget to keep for the work after the fit. If the fit validates, at least the length
            of a validation. Default: 0.25.
        lr_schedule: progress → factor on each parameter group's initial learning rate, set before every step.
            Default: the callback leaves the learning rates alone.
        ledger: records the phases `train` and `validate`. Default: a new ledger, in `.ledger`.
        pacer: source of progress. Default: a `Pacer` on the budget.
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
        """Ends the fit after the current step. Safe to call from a signal handler."""
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
            shared = torch.tensor(math.nan if progress is None else progress, dtype=torch.float64)
            shared = shared.to(trainer.strategy.root_device)
            torch.distributed.broadcast(shared, src=0)
            progress = None if shared.isnan() else shared.item()
        if progress is None:
            trainer.should_stop = True
            trainer.limit_val_batches = 0  # otherwise Lightning validates once more, for an unknown time
            return
        self.progress = progress
        if self._lr_schedule is not None:
            factor = self._lr_schedule(progress)
            for optimizer in trainer.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
