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

    Attributes:
        batch_size: B; may change between two batches.
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
        self.batch_size = batch_size
        self._num_images, self._device = num_images, device
        self._generator = torch.Generator().manual_seed(seed)
        self._rank, self._world_size = rank, world_size
        self._pool = torch.empty(0, dtype=torch.int64, device=device)

    def put_back(self, indices: Tensor) -> None:
        """Images that a step could not take after all: they come first in the next batch. For one rank alone."""
        self._pool = torch.cat([indices, self._pool])

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            while len(self._pool) < self.batch_size:
                permutation = torch.randperm(self._num_images, generator=self._generator)
                self._pool = torch.cat([self._pool, permutation.to(self._device, non_blocking=True)])
            batch, self._pool = self._pool[: self.batch_size], self._pool[self.batch_size :]
            yield batch[self._rank :: self._world_size]
