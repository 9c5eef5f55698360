"""One of two ranks that train under one clock; a script of `test_callback.py`, started once per rank.

Usage: python two_ranks.py FOLDER, with RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set.
"""

import json
import os
import sys
import time
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from test_callback import Slow
from torch.utils.data import DataLoader, TensorDataset

from timing import Budget, BudgetCallback

rank = int(os.environ["LOCAL_RANK"])
torch.distributed.init_process_group("gloo")  # waits for the other rank, whose imports may take longer than the budget
if rank == 1:
    time.sleep(0.5)
clock = BudgetCallback(Budget(40.0 if rank else 4.0, time.monotonic()), lr_schedule=lambda progress: 1 - progress)
module = Slow(0.03 if rank else 0.01)
trainer = L.Trainer(
    accelerator="cpu",
    devices=2,
    strategy=DDPStrategy(process_group_backend="gloo"),
    max_epochs=-1,
    callbacks=[clock],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    limit_val_batches=0,
)
torch.manual_seed(0)
trainer.fit(module, DataLoader(TensorDataset(torch.randn(40, 2)), batch_size=4))
(Path(sys.argv[1]) / f"rank{rank}.json").write_text(json.dumps([module.lrs, module.layer.weight.tolist()]))
