"""The budget callback in a plain Lightning project that knows nothing of speedtrain."""

import os
import socket
import subprocess
import time
from pathlib import Path

import lightning as L
import pytest
import torch
import warm
from torch.utils.data import DataLoader, TensorDataset

from timing import Budget, BudgetCallback


class Slow(L.LightningModule):
    """A linear model whose steps take a while."""

    def __init__(self, seconds: float = 0.01) -> None:
        super().__init__()
        self.layer, self.seconds = torch.nn.Linear(2, 1), seconds
        self.lrs: list[float] = []

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        time.sleep(self.seconds)
        self.lrs.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        time.sleep(self.seconds)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def fit(module: Slow, clock: BudgetCallback, **options: object) -> None:
    loader = DataLoader(TensorDataset(torch.randn(40, 2)), batch_size=4)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet["enable_model_summary"] = False
    trainer = L.Trainer(accelerator="cpu", max_epochs=-1, callbacks=[clock], num_sanity_val_steps=0, **quiet, **options)
    trainer.fit(module, loader, loader)


def test_stops_in_time_anneals_fully_and_accounts_for_everything(tmp_path: Path) -> None:
    budget = Budget(4.0, time.monotonic())
    clock = BudgetCallback(budget, reserve=0.3, lr_schedule=lambda progress: 1 - progress)
    module = Slow()
    fit(module, clock, default_root_dir=tmp_path)
    assert 0.0 < budget.remaining() < 1.0
    assert module.lrs[0] == 0.5
    assert module.lrs == sorted(module.lrs, reverse=True)
    assert module.lrs[-1] < 0.05
    phases = clock.ledger.phases()
    assert sum(phases.values()) == pytest.approx(budget.elapsed(), abs=0.05)
    assert phases["train"] > 0.5
    assert phases["validate"] > 0.3


def test_no_validation_after_the_last_step(tmp_path: Path) -> None:
    """Lightning would validate once more when told to stop in the middle of an epoch, here for a second."""
    budget = Budget(3.0, time.monotonic())
    module = Slow()
    module.validation_step = lambda batch, batch_idx: time.sleep(0.1)  # type: ignore[method-assign]
    loader = DataLoader(TensorDataset(torch.randn(4000, 2)), batch_size=4)
    quick = DataLoader(TensorDataset(torch.randn(40, 2)), batch_size=4)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=-1, callbacks=[BudgetCallback(budget)], logger=False, num_sanity_val_steps=0,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, loader, quick)
    assert budget.remaining() > -0.5
    seen: list[int] = []
    module.validation_step = lambda batch, batch_idx: seen.append(batch_idx)  # type: ignore[method-assign]
    trainer.validate(module, quick, verbose=False)
    assert len(seen) == 10  # validating afterwards is nobody's business but the user's


def test_stop_ends_the_fit_after_the_step_at_hand(tmp_path: Path) -> None:
    clock = BudgetCallback(Budget(600, time.monotonic()))
    module = Slow()

    class StopAtThird(L.Callback):
        def on_train_batch_start(self, *_: object) -> None:
            if len(module.lrs) == 2:
                clock.stop()

    loader = DataLoader(TensorDataset(torch.randn(40, 2)), batch_size=4)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=-1, callbacks=[StopAtThird(), clock], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, loader)
    assert len(module.lrs) == 3


def test_two_ranks_follow_one_clock(warm_python: str, tmp_path: Path) -> None:
    """Rank 1 is slow and was started later; both must take the same steps at the same learning rates."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = warm.through(warm_python, str(Path(__file__).with_name("two_ranks.py")), str(tmp_path))
    ranks = [
        subprocess.Popen(command, env={**os.environ, **group, "RANK": rank, "LOCAL_RANK": rank}, cwd=tmp_path)
        for rank in ("0", "1")
    ]
    try:
        assert [rank.wait(120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    first, second = ((tmp_path / f"rank{rank}.json").read_text() for rank in (0, 1))
    assert first == second
    assert len(first) > 100
