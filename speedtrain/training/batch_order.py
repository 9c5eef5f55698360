"""Which images a step sees."""

from collections.abc import Iterator

import torch
from torch import Tensor


class BatchOrder:
    """Endless batches of image indices: one permutation of the training set after another, cut to size.

    A batch may span two of them, so all have the same size and a set smaller than a batch just works. Under
    a distributed strategy each rank takes its share of every batch.

    Args:
        num_images: N.
        batch_size: B, over all ranks.
        seed: of the permutations.
        device: where the indices are wanted.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._num_images, self._batch_size, self._device = num_images, batch_size, device
        self._generator = torch.Generator().manual_seed(seed)
        self._rank, self._world_size = rank, world_size

    def __iter__(self) -> Iterator[Tensor]:
        pool = torch.empty(0, dtype=torch.int64, device=self._device)
        while True:
            while len(pool) < self._batch_size:
                permutation = torch.randperm(self._num_images, generator=self._generator)
                pool = torch.cat([pool, permutation.to(self._device, non_blocking=True)])
            batch, pool = pool[: self._batch_size], pool[self._batch_size :]
            yield batch[self._rank :: self._world_size]
