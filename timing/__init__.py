"""The wall clock of a training run: a budget, its enforcement, and a record of where the time went.

The package can be used alone. In any Lightning project:

    from timing import BudgetCallback

    clock = BudgetCallback(600, lr_schedule=lambda progress: 1 - progress)
    lightning.Trainer(max_epochs=-1, callbacks=[clock]).fit(module, loader)
    print(clock.ledger.phases())  # {"start": 7.1, "train": 592.6, …}

Around any command:

    from timing import Guarded

    with Guarded(["python", "train.py"], seconds=600) as job:
        print(job.wait())  # ExitStatus(reason='deadline', returncode=-9, wall_seconds=600.002)
"""

from typing import TYPE_CHECKING, Any

from timing.clock import Budget, process_start
from timing.command import ExitStatus, Guarded, send_event
from timing.ledger import Ledger
from timing.pacer import Pacer, RecordedPacer

if TYPE_CHECKING:
    from timing.callback import BudgetCallback

__all__ = [
    "Budget",
    "BudgetCallback",
    "ExitStatus",
    "Guarded",
    "Ledger",
    "Pacer",
    "RecordedPacer",
    "process_start",
    "send_event",
]


def __getattr__(name: str) -> Any:
    if name == "BudgetCallback":  # imported on first use: importing Lightning takes seconds
        from timing.callback import BudgetCallback

        return BudgetCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
