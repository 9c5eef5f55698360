"""A GPU whose memory is too short for a step: half the batch, and on."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from speedtrain.training.batch_order import BatchOrder
from speedtrain.training.divergence import DivergenceGuard
from speedtrain.training.lightning_module import Training

SMALLEST_BATCH = 8  # below, batch norm has little to average


def memory_is_short(error: RuntimeError) -> bool:
    """Whether a GPU has no memory left, in the words of torch, cuDNN or cuBLAS."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "ALLOC_FAILED" in str(error)


class MemoryGuard:
    """Takes the steps of a training, and halves the batch where a step does not fit into a GPU's memory.

    The step that failed may have changed weights or a trick's state, so training goes back to its last snapshot. The
    learning rate is halved with the batch, in proportion (Goyal et al., arXiv 1706.02677), and the random numbers begin
    anew, so that a replay, which knows the size of each batch and fails nowhere, draws the same.

    Args:
        training: whose steps these are.
        order: of the images; what a smaller batch leaves comes next.
        divergence: keeps the snapshots.
        seed: of the random numbers after a halving.
        send_message: shows a person one line.
        recorded: the batch size of every step, from the log that a replay follows. Default: none, memory decides.

    Attributes:
        batch_size: images per step, now.
        lr_factor: factor on the schedule's learning rate: 1, halved with every halving of the batch.
    """

    def __init__(
        self,
        training: Training,
        order: BatchOrder,
        divergence: DivergenceGuard,
        seed: int,
        send_message: Callable[[str], None],
        recorded: Sequence[int] | None = None,
    ) -> None:
        self.batch_size, self.lr_factor = order.batch_size, 1.0
        self._training, self._order, self._divergence = training, order, divergence
        self._seed, self._send_message, self._recorded = seed, send_message, recorded
        training.take_step = self._take_step

    def _take_step(self, indices: Tensor) -> None:
        if self._recorded is not None:
            while self.batch_size > self._recorded[self._training.num_steps]:
                self._halve()
        fits = False
        while not fits:
            batch, later = indices[: self.batch_size], indices[self.batch_size :]
            if len(later):
                self._order.put_back(later)
            fits = self._fits(batch)
            if not fits:  # here, since an exception under way would hold the memory that is to become free
                indices = batch
                self._halve()

    def _fits(self, indices: Tensor) -> bool:
        try:
            self._training.step(indices, self._training.optimizer)
        except RuntimeError as error:
            enough = self.batch_size // 2 >= SMALLEST_BATCH
            if not memory_is_short(error) or self._recorded is not None or not enough:
                raise
            return False
        return True

    def _halve(self) -> None:
        rates = [group["lr"] for group in self._training.optimizer.param_groups]
        for parameter in self._training.parameters():
            parameter.grad = None
        torch.cuda.empty_cache()  # going back takes memory too
        self._divergence.go_back()
        torch.manual_seed(self._seed + self._training.num_steps)
        self.batch_size = self._order.batch_size = self.batch_size // 2
        self.lr_factor /= 2
        for group, rate in zip(self._training.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate / 2
        short = "the GPU's memory is" if self._recorded is None else "in the run, the GPU's memory was"
        self._send_message(
            f"step {self._training.num_steps}: {short} too short for {2 * self.batch_size} images; on with "
            f"{self.batch_size} per step, learning rate halved"
        )
