"""Sharpness-aware training for free."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tricks.trick import Batch, Loss, Trick, TrickError, last_places, whole_batch


@dataclass
class SAF(Trick):
    """Keeps the output for each image close to an earlier one, which leads to flat minima without a second pass.

    For each training image it keeps the output of its last visits. With the logits z [B, K] of the batch, and the
    logits z′ [B, K] of the same images E visits ago, which are constants (the trajectory loss of the paper):

        loss + λ mean(KL(softmax(z′ / τ) ‖ softmax(z / τ)))        KL(p ‖ q) = Σₖ pₖ log(pₖ / qₖ)

    The mean is over all images of the batch. An image that has not been seen E times adds 0 to it. Outputs are kept
    from the first step on, also before `start`. A step costs what a plain one does, and the outputs of N training
    images take N · E · K numbers in memory.

    The formula and τ are the paper's. The other defaults are ours, for 10 to 80 epochs. The authors' code has λ = 0.3
    and multiplies the term by τ², so λ = 0.3 · 5² = 7.5 has the same effect here. It looks 2 of 90 epochs back, or 3
    of 300. The same share of 10 to 80 epochs is less than 2, so E is 1, which also takes the least memory. The authors
    start at epoch 5, or after 30 % of the epochs. Only the share suits both 10 epochs and 80.

    Args:
        strength: λ, at least 0. Default: 7.5.
        temperature: τ, above 0. Default: 5.0.
        epochs_back: E, how many visits of an image ago; each epoch visits an image once. Default: 1.
        start: progress at which the term is first added, 0 to 1. Default: 0.3.
    """

    strength: float = 7.5
    temperature: float = 5.0
    epochs_back: int = 1
    start: float = 0.3

    interacts: ClassVar[str] = (
        "cutmix and mixup: leave them out, because a mixed image shows two images, and the stored output is that of "
        "another mixture. meta_warmup: leave it out, because it computes on half batches. flip, random_crop, "
        "random_resized_crop and cutout: the stored output is that of another view of the image, so the term also "
        "makes the outputs for different views alike. progressive_resizing: after a change of size, the stored output "
        "is that of a smaller image. sam: its second pass uses the same stored outputs as its first. momentum_sam: the "
        "stored outputs are those at the shifted weights. early_learning_regularization also keeps the network close "
        "to earlier outputs: use only one of the two. label_smoothing, logit_adjustment and class_weights: by default, "
        "they do not act on this term. Under DistributedDataParallel, each process has its own outputs, so several "
        "epochs pass between two visits of an image."
    )
    paper: ClassVar[str] = "Du et al., Sharpness-Aware Training for Free, 2022 (arXiv 2205.14083)"

    def __post_init__(self) -> None:
        if not 0 <= self.strength < float("inf"):
            raise TrickError(f"strength must be at least 0 and finite, got {self.strength}")
        if not 0 < self.temperature < float("inf"):
            raise TrickError(f"temperature must be positive and finite, got {self.temperature}")
        if self.epochs_back < 1:
            raise TrickError(f"epochs_back must be at least 1, got {self.epochs_back}")
        if not 0 <= self.start <= 1:
            raise TrickError(f"start must lie between 0 and 1, got {self.start}")
        self._num_images = 0
        self._outputs: Tensor | None = None  # log(softmax(z / τ)) [N, E, K], the oldest first; 0 where there is none
        self._past = torch.empty(0)  # of these, what the present batch is compared with, [B, K]
        self._ids: Tensor | None = None
        self._fresh = False
        self._progress = 0.0

    def data(self, images: Tensor, labels: Tensor) -> None:
        self._num_images = len(labels)

    def batch(self, batch: Batch) -> Batch:
        if batch.ids is None or not self._num_images:
            raise TrickError(
                "saf keeps an output for each image: call data(images, labels) first, and give Batch(..., ids=...)"
            )
        self._ids, self._fresh, self._progress = batch.ids, True, batch.progress
        return batch

    def loss(self, loss: Loss) -> Loss:
        def with_trajectory(logits: Tensor, targets: Tensor) -> Tensor:
            ids = whole_batch(self._ids, logits, "saf")
            precision = torch.promote_types(logits.dtype, torch.float32)
            present = (logits.to(precision) / self.temperature).log_softmax(dim=1)
            if self._outputs is None:
                self._outputs = present.new_zeros(self._num_images, self.epochs_back, logits.shape[1])
            if self._fresh:
                self._past = self._outputs[ids, 0]
                self._remember(self._outputs, ids, present.detach())
                self._fresh = False
            if self._progress < self.start:
                return loss(logits, targets)
            divergence = F.kl_div(present, self._past, reduction="none", log_target=True).sum(dim=1)
            known = self._past.any(dim=1)  # of at least two probabilities, one is below 1, and its logarithm is not 0
            return loss(logits, targets) + self.strength * torch.where(known, divergence, 0).mean()

        return with_trajectory

    def _remember(self, outputs: Tensor, ids: Tensor, present: Tensor) -> None:
        """Adds the outputs of a batch: of an image that is in it twice, only the later one."""
        latest, before = present[last_places(ids, self._num_images)], outputs[ids]
        finite = latest.isfinite().all(dim=1)  # an overflow in half precision must not stay
        after = torch.cat([before[:, 1:], latest[:, None]], dim=1)
        outputs[ids] = torch.where(finite[:, None, None], after, before)

    def state(self) -> dict[str, Any]:
        return {"outputs": None if self._outputs is None else self._outputs.clone()}

    def load_state(self, state: dict[str, Any]) -> None:
        self._outputs = None if state["outputs"] is None else state["outputs"].clone()
