"""Training as a Lightning module: batch → loss → gradient → step, with the tricks wrapped around each."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.func import functional_call

from speedtrain.config import Config
from speedtrain.network.classifier import Classifier, build_classifier, make_tricks
from speedtrain.network.precision import autocast
from speedtrain.training.loss_scale import LossScale
from speedtrain.training.sgd import SGD
from tricks import Batch, Compute, Loss, State, Trick


class Training(L.LightningModule):
    """One step of training, on images that live on the device as uint8.

    Manual optimization: the `gradient` hook does the backward passes. Progress comes from `self.progress`,
    which a callback sets before every step. Without a trainer there is `step`, with the optimizer of
    `configure_optimizers` and `differentiate` set to `Tensor.backward`.

    Args:
        classifier: what is trained.
        images: uint8 [N, H, W, 3].
        labels: int64 [N].
        num_classes: K.
        tricks: in the order in which they wrap.
        lr, momentum, nesterov, weight_decay: of SGD.
        precision: `fp32`, or `bf16` or `fp16` for automatic mixed precision.
        targets: float [N, K], how much of each class an image is trained on. Default: one of its label's class.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        num_classes: int,
        tricks: Sequence[Trick],
        *,
        lr: float,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
        precision: str = "fp32",
        targets: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.classifier = classifier
        self.tricks = tuple(tricks)
        self.progress = 0.0
        self.num_steps = 0
        self.num_images = len(images)
        self.lr = lr
        self.last_loss: Tensor | None = None
        self.last_side = self.last_batch_size = 0
        self.take_step: Callable[[Tensor], None] = lambda indices: self.step(indices, self.optimizer)
        self.differentiate: Callable[[Tensor], object] = self.manual_backward
        self.loss_scale = LossScale(precision == "fp16")
        # plain attributes: as buffers, DistributedDataParallel would send them round every step
        self._images, self._num_classes = images, num_classes
        self._targets = labels if targets is None else targets
        self._precision = precision
        self._weights = list(classifier.parameters())
        self._sgd: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
        }
        self._loss: Loss = F.cross_entropy
        self.gradient: Compute = self._plain_gradient
        for trick in self.tricks:
            self._loss = trick.loss(self._loss)
            self.gradient = trick.gradient(self.gradient, classifier)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD, wrapped by the tricks that act on the step. Norms and biases are not decayed towards zero."""
        parameters = [p for p in self.classifier.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer: torch.optim.Optimizer = SGD(groups, **self._sgd)
        for trick in self.tricks:
            optimizer = trick.step(optimizer, self.classifier)
        return optimizer

    @property
    def optimizer(self) -> LightningOptimizer:
        """The one there is, as the trainer wraps it."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        return optimizer

    def make_batch(self, indices: Tensor) -> Batch:
        """Images [indices], normalised and passed through the tricks that act on the batch."""
        batch = Batch(
            self.classifier.normalise(self._images[indices]),
            self._targets[indices],
            self.progress,
            self.num_steps,
            self._num_classes,
            indices,
        )
        for trick in self.tricks:
            batch = trick.batch(batch)
        return batch

    def training_step(self, indices: Tensor, batch_idx: int) -> None:
        self.take_step(indices)

    def step(self, indices: Tensor, optimizer: torch.optim.Optimizer | LightningOptimizer) -> None:
        """A whole step, from the images [indices] to new weights."""
        batch = self.make_batch(indices)
        self.last_loss = self.gradient(batch)
        if self.loss_scale.may_step():
            with self._autocast():  # what an optimizer multiplies may be as coarse as what the network does
                optimizer.step()
        self.last_side, self.last_batch_size = batch.images.shape[-1], len(indices)
        self.num_steps += 1

    @torch.no_grad()
    def share_right(self, weights: State, count: int) -> float:
        """The share of training images whose class a network with these weights finds, in evaluation mode.

        Args:
            weights: parameters and buffers, under the names of the classifier's state.
            count: how many images, evenly spaced; all where there are fewer.
        """
        images = len(self._images)
        count = min(images, count)
        chosen = torch.arange(count, device=self._images.device) * images // count
        right = []
        self.classifier.eval()
        for indices in chosen.split(self.last_batch_size):
            with self._autocast():
                logits = functional_call(
                    self.classifier, weights, self.classifier.normalise(self._images[indices]), tie_weights=False
                )
            targets = self._targets[indices]
            right.append(logits.argmax(1) == (targets.argmax(1) if targets.is_floating_point() else targets))
        self.classifier.train()
        return torch.cat(right).float().mean().item()

    def _autocast(self) -> torch.autocast:
        return autocast(self._images.device, self._precision)

    def _plain_gradient(self, batch: Batch) -> Tensor:
        for parameter in self._weights:  # as `zero_grad` does, which looks for them first: a fifth of a millisecond
            parameter.grad = None
        with self._autocast():
            logits = self.classifier(batch.images)
        loss = self._loss(logits.float(), batch.targets)
        self.differentiate(loss * self.loss_scale.scale)
        self.loss_scale.unscale(self._weights)
        return loss.detach()


def build_training(
    config: Config,
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    width: int | None,
    precision: str,
    statistics: Tensor | None = None,
    targets: Tensor | None = None,
) -> Training:
    """The training of an untrained network, as configured, with what the planner decided.

    Args:
        images: uint8 [N, H, W, 3], on the device that trains; labels: int64 [N].
        width: of a ResNet-9; None for other networks.
        precision: `fp32`, `bf16` or `fp16`.
        statistics: training images to take statistics from; default: all.
        targets: as in `Training`; default: the labels.

    Raises:
        UserError: no such model, or timm cannot build it for these images.
        TrickError: a trick cannot act on this model.
    """
    tricks = make_tricks(config.tricks)
    measured = images if statistics is None else statistics
    side = images.shape[1]
    classifier = build_classifier(
        config.model, num_classes, width or 0, config.head_scale, tricks, measured, side, labels
    )
    return Training(
        classifier.to(images.device),
        images,
        labels,
        num_classes,
        tricks,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        precision=precision,
        targets=targets,
    )
