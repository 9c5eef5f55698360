"""Fairness regularizer."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tricks.trick import Loss, Trick, TrickError, class_counts, soft_targets

HEAD_SHARE = 5 / 6
"""Of the training images are in the classes of the head: 5 to 1, as in the paper."""


@dataclass
class FairnessRegularizer(Trick):
    """Keeps the network from explaining the labels of one group better than those of another.

    With the probability p of an image's label, in every batch (equation 3 of the paper):

        loss + λ Σᵢ | mean(p) − mean(p in group i) |

    Groups are by the given labels: each class is one, or the large classes are one and the others are the second. A
    group that is not in the batch is left out. For a soft target q, p is Σ q p, and the image belongs to the class with
    the largest q.

    Args:
        strength: λ, at least 0. Default: 1.0.
        groups: classes or head_tail. Default: classes.
        one_sided: count only the groups that are below the mean. This variant is not the paper's. Default: False.
    """

    strength: float = 1.0
    groups: Literal["classes", "head_tail"] = "classes"
    one_sided: bool = False

    interacts: ClassVar[str] = (
        "Its term uses the given labels and the unchanged logits, so label_smoothing, logit_adjustment and "
        "class_weights do not act on this term. cutmix and mixup: a mixed image belongs to the class with the larger "
        "share."
    )
    paper: ClassVar[str] = (
        "Wei et al., Fairness Improves Learning from Noisily Labeled Long-Tailed Data, 2023 (arXiv 2303.12291)"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.strength < float("inf"):
            raise TrickError(f"strength must be at least 0 and finite, got {self.strength}")
        if self.groups not in ("classes", "head_tail"):
            raise TrickError(f"groups must be classes or head_tail, got {self.groups!r}")
        self._labels: Tensor | None = None

    def data(self, images: Tensor, labels: Tensor) -> None:
        self._labels = labels

    def loss(self, loss: Loss) -> Loss:
        group_of_class: Tensor | None = None

        def fair(logits: Tensor, targets: Tensor) -> Tensor:
            nonlocal group_of_class
            if group_of_class is None:
                group_of_class = self._group_of_class(logits)
            soft = soft_targets(targets, logits)
            p = (soft * logits.softmax(dim=1)).sum(dim=1)
            groups = group_of_class[soft.argmax(dim=1)]
            none = p.new_zeros(len(group_of_class))
            sizes, sums = none.index_add(0, groups, torch.ones_like(p)), none.index_add(0, groups, p)
            distances = (p.mean() - sums / sizes.clamp(min=1))[sizes > 0]
            unfair = distances.clamp(min=0).sum() if self.one_sided else distances.abs().sum()
            return loss(logits, targets) + self.strength * unfair

        return fair

    def _group_of_class(self, logits: Tensor) -> Tensor:
        """The group of each class, int64 [K]."""
        if self.groups == "classes":
            return torch.arange(logits.shape[1], device=logits.device)
        counts = class_counts(self._labels, logits, "fairness_regularizer")
        order = counts.argsort(descending=True, stable=True)
        before = counts[order].cumsum(0) - counts[order]
        tail = torch.empty_like(order)
        tail[order] = (before >= HEAD_SHARE * counts.sum()).long()
        if not tail.any():  # one class alone may be more than the head's share of what is left
            tail[order[-1]] = 1
        return tail
