"""Fairness regularizer."""

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tricks.k_means import first_centres, k_means, nearest_centre
from tricks.trick import (
    Batch,
    Compute,
    Loss,
    Trick,
    TrickError,
    class_counts,
    last_places,
    soft_targets,
    whole_batch,
)

HEAD_SHARE = 5 / 6
"""Of the training images are in the classes of the head: 5 to 1, as in the paper."""
FITTED = 10_000
"""Images that the centres of the clusters are fitted to, at the most."""
FIRST_ITERATIONS, ITERATIONS = 20, 10
"""Of k-means, at the most: the first time, and later, when it starts from the centres of the time before."""
CLUSTERS_NEED = (
    "fairness_regularizer keeps the features of each image for groups: clusters: call data(images, labels) first, give "
    "Batch(..., ids=...), and use its stages batch, loss and gradient together"
)


@dataclass
class FairnessRegularizer(Trick):
    """Keeps the network from explaining the labels of one group better than those of another.

    With the probability p of an image's label, in every batch (equation 3 of the paper):

        loss + λ Σᵢ | mean(p) − mean(p in group i) |

    Groups are by the given labels: each class is one, or the large classes are one and the others are the second. Or
    they are clusters of images. A group that is not in the batch is left out. For a soft target q, p is Σ q p, and the
    image belongs to the class with the largest q.

    Clusters are found by k-means of features. The paper clusters the features of a pretrained network. Here they are
    those that the network in training gives to its head: the input of its last `nn.Linear`, flattened to [B, D]. Those
    of an image are kept as they were when it was last in a batch, in float32 [N, D] (8 MB for 5,000 images of 384
    features). Images are clustered when progress passes 0.1, 0.2, …; before 0.1 there is no term. An image that was in
    no batch yet has no group until the next time: it counts in the mean of the batch, and in that of no group.

    In a batch, groups that are alike differ by chance. With B images in the batch, K groups of equal size, and the
    standard deviation σ of p, each group is about 0.8 σ √((K − 1) / B) from the mean. For 10 clusters and a batch of
    128, thus 13 images of each cluster, this is 0.21 σ; for 2 clusters it is 0.07 σ. With many more clusters than 10,
    the term is mostly chance, unless batches are larger too.

    Args:
        strength: λ, at least 0. Default: 1.0.
        groups: classes, head_tail or clusters. Default: classes.
        one_sided: count only the groups that are below the mean. This variant is not the paper's. Default: False.
        clusters: how many clusters, a whole number from 2 on; used only where `groups` is clusters. Default: 10.
    """

    strength: float = 1.0
    groups: Literal["classes", "head_tail", "clusters"] = "classes"
    one_sided: bool = False
    clusters: int = 10

    interacts: ClassVar[str] = (
        "Its term uses the given labels and the unchanged logits, so label_smoothing, logit_adjustment and "
        "class_weights do not act on this term. cutmix and mixup: a mixed image belongs to the class with the larger "
        "share. With groups: clusters, a mixed image belongs to the cluster of the image in whose place it is; leave "
        "out meta_warmup, which computes on half batches; the second pass of sam uses the same clusters as its first; "
        "under DistributedDataParallel, each process clusters the images that it has seen."
    )
    paper: ClassVar[str] = (
        "Wei et al., Fairness Improves Learning from Noisily Labeled Long-Tailed Data, 2023 (arXiv 2303.12291)"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.strength < float("inf"):
            raise TrickError(f"strength must be at least 0 and finite, got {self.strength}")
        if self.groups not in ("classes", "head_tail", "clusters"):
            raise TrickError(f"groups must be classes, head_tail or clusters, got {self.groups!r}")
        if not isinstance(self.clusters, int) or self.clusters < 2:
            raise TrickError(f"clusters must be a whole number from 2 on, got {self.clusters}")
        self._labels: Tensor | None = None
        # of this step
        self._ids: Tensor | None = None
        self._progress = 0.0
        self._seen: Tensor | None = None  # what the head receives, [B, D]
        self._fresh = False  # whether none of its passes has used that yet
        # from step to step
        self._features: Tensor | None = None  # [N, D], NaN for an image that was in no batch yet
        self._centres: Tensor | None = None  # [clusters, D]
        self._group_of_image: Tensor | None = None  # int64 [N], `clusters` for an image without a group
        self._tenths = 0  # of training that had passed at the last clustering

    def data(self, images: Tensor, labels: Tensor) -> None:
        self._labels = labels

    def batch(self, batch: Batch) -> Batch:
        if self.groups == "clusters":
            if batch.ids is None or self._labels is None:
                raise TrickError(CLUSTERS_NEED)
            self._ids, self._progress, self._seen, self._fresh = batch.ids, batch.progress, None, True
        return batch

    def loss(self, loss: Loss) -> Loss:
        group_of_class: Tensor | None = None

        def fair(logits: Tensor, targets: Tensor) -> Tensor:
            nonlocal group_of_class
            soft = soft_targets(targets, logits)
            if self.groups == "clusters":
                groups, count = self._groups_of_batch(logits), self.clusters
                if groups is None:
                    return loss(logits, targets)
            else:
                if group_of_class is None:
                    group_of_class = self._group_of_class(logits)
                groups, count = group_of_class[soft.argmax(dim=1)], len(group_of_class)
            p = (soft * logits.softmax(dim=1)).sum(dim=1)
            unfair = self._unfairness(p, groups, count)
            return loss(logits, targets) + self.strength * unfair

        return fair

    def gradient(self, compute: Compute, model: nn.Module) -> Compute:
        if self.groups != "clusters":
            return compute
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise TrickError("fairness_regularizer finds no features to cluster: the network has no linear layer")

        def keep(head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if self._fresh:
                self._seen = inputs[0].detach().flatten(1)

        def watched(batch: Batch) -> Tensor:
            # only as long as the gradient takes: predictions, copies and exports have a network without a hook
            hook = linear[-1].register_forward_pre_hook(keep)
            try:
                return compute(batch)
            finally:
                hook.remove()

        return watched

    def _unfairness(self, p: Tensor, groups: Tensor, count: int) -> Tensor:
        """Σᵢ | mean(p) − mean(p in group i) |, a scalar; of the groups below the mean only, where it is one-sided.

        Args:
            p: the probability of each image's label, [B].
            groups: the group of each image, int64 [B]; `count` for none.
            count: how many groups there are.
        """
        none = p.new_zeros(count + 1)
        sizes = none.index_add(0, groups, torch.ones_like(p))[:count]
        sums = none.index_add(0, groups, p)[:count]
        distances = (p.mean() - sums / sizes.clamp(min=1))[sizes > 0]
        return distances.clamp(min=0).sum() if self.one_sided else distances.abs().sum()

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

    def _groups_of_batch(self, logits: Tensor) -> Tensor | None:
        """The cluster of each image of the step's batch, int64 [B]; None before the first clustering.

        The first pass of a step keeps the features, and clusters where it is time to.

        Args:
            logits: of this pass, [B, K].

        Raises:
            TrickError: the images or their features are not known.
        """
        if self._ids is None:
            raise TrickError(CLUSTERS_NEED)
        ids = whole_batch(self._ids, logits, "fairness_regularizer with groups: clusters")
        if self._fresh:
            features = self._remember(ids)
            self._seen, self._fresh = None, False
            tenths = int(10 * self._progress)
            if tenths > self._tenths:
                self._tenths = tenths
                self._cluster(features)
        return None if self._group_of_image is None else self._group_of_image[ids]

    def _remember(self, ids: Tensor) -> Tensor:
        """Writes the features of the batch into the table, which it returns; the later ones of an image that is in it
        twice."""
        if self._seen is None or self._labels is None:
            raise TrickError(CLUSTERS_NEED)
        if len(self._seen) != len(ids):
            raise TrickError(
                "fairness_regularizer with groups: clusters needs a last linear layer that sees each image once, not "
                f"{len(self._seen)} rows for {len(ids)} images"
            )
        seen = self._seen.float()
        if self._features is None:
            self._features = seen.new_full((len(self._labels), seen.shape[1]), math.nan)
        latest, before = seen[last_places(ids, len(self._labels))], self._features[ids]
        finite = latest.isfinite().all(dim=1, keepdim=True)  # an overflow in half precision must not stay
        self._features[ids] = torch.where(finite, latest, before)
        return self._features

    @torch.no_grad()
    def _cluster(self, features: Tensor) -> None:
        """Gives each image a group, by its features [N, D] where it has them."""
        known = ~features[:, 0].isnan()
        fitted = known.nonzero().squeeze(1)
        if not len(fitted):
            return
        if len(fitted) > FITTED:
            fitted = fitted[torch.arange(FITTED, device=fitted.device) * len(fitted) // FITTED]
        points = features[fitted]
        with torch.autocast(features.device.type, enabled=False):  # a loop may compute its loss in half precision
            if self._centres is None:
                self._centres = k_means(points, first_centres(points, self.clusters), FIRST_ITERATIONS)
            else:
                self._centres = k_means(points, self._centres, ITERATIONS)
            self._group_of_image = torch.where(known, nearest_centre(features, self._centres), self.clusters)

    def state(self) -> dict[str, Any]:
        if self.groups != "clusters":
            return {}
        return copy.deepcopy(
            {
                "features": self._features,
                "centres": self._centres,
                "group_of_image": self._group_of_image,
                "tenths": self._tenths,
            }
        )

    def load_state(self, state: dict[str, Any]) -> None:
        if self.groups == "clusters":
            state = copy.deepcopy(state)
            self._features, self._centres = state["features"], state["centres"]
            self._group_of_image, self._tenths = state["group_of_image"], state["tenths"]
