"""Early-learning regularization."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tricks.trick import Batch, Loss, Trick, TrickError, last_places, whole_batch


@dataclass
class EarlyLearningRegularization(Trick):
    """Holds the network to what it learned early, before it would learn wrong labels by heart.

    For each training image it keeps a target t, the moving average of the network's own probabilities p, and adds a
    term that rewards agreement with it (equations 6 and 9 of the paper):

        t ← β t + (1 − β) p        loss + λ mean(log(1 − ⟨p, t⟩))

    Args:
        strength: λ, at least 0. Default: 3.0.
        memory: β, at least 0 and below 1. Default: 0.7.
    """

    strength: float = 3.0
    memory: float = 0.7

    interacts: ClassVar[str] = (
        "cutmix and mixup: leave them out, because a mixed image shows two images, and the stored target is that of "
        "only one. meta_warmup: leave it out, because it computes on half batches. sam: its second pass uses the same "
        "targets as its first. Under DistributedDataParallel, each process has its own targets."
    )
    paper: ClassVar[str] = "Liu et al., Early-Learning Regularization Prevents Memorization, 2020 (arXiv 2007.00151)"

    def __post_init__(self) -> None:
        if not 0 <= self.strength < float("inf"):
            raise TrickError(f"strength must be at least 0 and finite, got {self.strength}")
        if not 0 <= self.memory < 1:
            raise TrickError(f"memory must be at least 0 and below 1, got {self.memory}")
        self._num_images = 0
        self._targets: Tensor | None = None
        self._ids: Tensor | None = None
        self._fresh = False

    def data(self, images: Tensor, labels: Tensor) -> None:
        self._num_images = len(labels)

    def batch(self, batch: Batch) -> Batch:
        if batch.ids is None or not self._num_images:
            raise TrickError(
                "early_learning_regularization keeps a target for each image: call data(images, labels) first, and "
                "give Batch(..., ids=...)"
            )
        self._ids, self._fresh = batch.ids, True
        return batch

    def loss(self, loss: Loss) -> Loss:
        def regularized(logits: Tensor, targets: Tensor) -> Tensor:
            ids = whole_batch(self._ids, logits, "early_learning_regularization")
            # as in the authors' code: neither quite 0 nor 1, so that no logarithm is infinite
            probabilities = logits.softmax(dim=1).clamp(1e-4, 1 - 1e-4)
            if self._targets is None:
                self._targets = probabilities.new_zeros(self._num_images, logits.shape[1])
            if self._fresh:
                self._remember(self._targets, ids, probabilities.detach())
                self._fresh = False
            agreement = (probabilities * self._targets[ids]).sum(dim=1)
            return loss(logits, targets) + self.strength * (1 - agreement).log().mean()

        return regularized

    def _remember(self, targets: Tensor, ids: Tensor, probabilities: Tensor) -> None:
        """Moves the targets of a batch, each once: an image that is in it twice by the later one."""
        latest, before = probabilities[last_places(ids, self._num_images)], targets[ids]
        shares = latest / latest.sum(dim=1, keepdim=True)
        finite = latest.isfinite().all(dim=1, keepdim=True)  # an overflow in half precision must not stay
        after = self.memory * before + (1 - self.memory) * shares.to(targets)
        targets[ids] = torch.where(finite, after, before)

    def state(self) -> dict[str, Any]:
        return {"targets": None if self._targets is None else self._targets.clone()}

    def load_state(self, state: dict[str, Any]) -> None:
        self._targets = None if state["targets"] is None else state["targets"].clone()
