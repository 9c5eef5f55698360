"""The base class of tricks, and the stages of training at which a trick may act.

    images → batch → model → loss → gradient → step → weights → prediction

A trick overrides the method of each stage it acts at. The other stages cost nothing.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Batch(NamedTuple):
    """The input of one training step.

    Attributes:
        images: float [B, C, H, W], normalised to mean 0 and standard deviation 1 per channel.
        targets: int64 [B] class indices, or float [B, K] class probabilities.
        progress: 0 at the first step, 1 at the planned end of training. Default: 0.
        step: number of this step, from 0. Default: 0.
        classes: number of classes K; 0 if it is not known. Default: 0.
        ids: int64 [B], the number of each image among the training images, for a trick that keeps something per image;
            None if it is not known. Default: None.
    """

    images: Tensor
    targets: Tensor
    progress: float = 0.0
    step: int = 0
    classes: int = 0
    ids: Tensor | None = None


Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits [B, K], targets) → scalar mean loss."""

Compute = Callable[[Batch], Tensor]
"""Batch → its loss (detached). Leaves the true (unscaled) gradient in `.grad` of every parameter,
in place of the gradients of the previous call."""

Forward = Callable[[Tensor], Tensor]
"""Normalised images [B, C, H, W] → logits [B, K]."""

State = dict[str, Tensor]
"""A module's parameters and buffers by name, as `state_dict()` gives them."""


REFERENCE_SIDE = 32
"""Side in pixels of the images that hyperparameters in pixels are meant for."""


def pixels(count: int, side: int) -> int:
    """`count` pixels of a 32-pixel image, in pixels of an image of this side: the same share of a larger one.

    In smaller images a pixel stays a pixel.
    """
    return max(count, round(count * side / REFERENCE_SIDE))


class TrickError(ValueError):
    """A trick cannot be used in this way. The message says why and what to do, in one line."""


class Trick:
    """Base of all tricks. Subclasses are dataclasses, and their fields are the hyperparameters."""

    interacts: ClassVar[str] = ""
    """May interact with: what changes together with other tricks or settings; empty if nothing is known."""

    paper: ClassVar[str] = ""
    """Where the trick was published, in one line."""

    def data(self, images: Tensor, labels: Tensor) -> None:
        """Receives the training data, once, before the first step.

        Args:
            images: normalised, float [M, C, H, W]; of many training images a sample.
            labels: class indices, int64 [N], of all training images.
        """

    def model(self, model: nn.Module) -> nn.Module:
        """Changes the network. Must build the same structure whether `data` was called before or not."""
        return model

    def batch(self, batch: Batch) -> Batch:
        """Changes the images and targets of one step."""
        return batch

    def loss(self, loss: Loss) -> Loss:
        """Wraps the loss function."""
        return loss

    def gradient(self, compute: Compute, model: nn.Module) -> Compute:
        """Wraps the computation of the gradient on `model`'s parameters."""
        return compute

    def step(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
        """Wraps or replaces the optimizer of `model`'s parameters."""
        return optimizer

    def weights(self, state: State, step: int) -> State:
        """Returns the weights to keep and predict with, under the same names. Called after every step.

        The tensors of `state` are the network's own: they change in place from step to step.
        """
        return state

    def prediction(self, forward: Forward) -> Forward:
        """Wraps the forward pass used for prediction."""
        return forward

    def state(self) -> dict[str, Any]:
        """What the trick carries from one step to the next, as copies. Empty for a trick that carries nothing.

        With `load_state`, training can return to an earlier step, for example after a loss that is not finite.
        """
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Returns to an earlier `state()`. Copies what it needs: the same state may be loaded again later."""

    @classmethod
    def name(cls) -> str:
        """The trick's name in recipes: the class name in snake_case."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def stages(cls) -> tuple[str, ...]:
        """The stages this trick acts at, in the order of the flow."""
        return tuple(stage for stage in STAGES if getattr(cls, stage) is not getattr(Trick, stage))


STAGES = ("data", "model", "batch", "loss", "gradient", "step", "weights", "prediction")


def class_probabilities(batch: Batch, trick: str) -> Tensor:
    """The targets as class probabilities, float [B, K], for a trick that mixes them.

    Args:
        batch: its targets may be class indices or class probabilities.
        trick: name of the trick, for the error message.

    Raises:
        TrickError: the targets are indices, and the batch does not give the number of classes.
    """
    if batch.targets.is_floating_point():
        return batch.targets
    if batch.classes < 1:
        raise TrickError(f"{trick} needs the number of classes: give Batch(..., classes=K)")
    return F.one_hot(batch.targets, batch.classes).float()


def soft_targets(targets: Tensor, logits: Tensor) -> Tensor:
    """Targets as class probabilities, float [B, K], in the precision of the logits or float32 if that is finer.

    Args:
        targets: class indices int64 [B], or class probabilities.
        logits: [B, K].
    """
    if targets.is_floating_point():
        return targets
    # half precision cannot tell 0.9 from 0.8984
    return F.one_hot(targets, logits.shape[1]).to(torch.promote_types(logits.dtype, torch.float32))


def class_counts(labels: Tensor | None, logits: Tensor, trick: str) -> Tensor:
    """How many training images each class has, float [K], on the device of the logits; 1 where there are none.

    Args:
        labels: of the training images, int64 [N], as `Trick.data` received them; None if it did not.
        logits: [B, K].
        trick: name of the trick, for the error message.

    Raises:
        TrickError: there are no labels.
    """
    if labels is None:
        raise TrickError(f"{trick} needs the labels of the training images: call data(images, labels) first")
    counts = torch.bincount(labels, minlength=logits.shape[1])
    return counts.clamp(min=1).to(logits.device, torch.promote_types(logits.dtype, torch.float32))


def whole_batch(ids: Tensor | None, logits: Tensor, trick: str) -> Tensor:
    """The numbers of a step's images, for a trick that keeps something per image.

    Args:
        ids: as the step's `Batch` gave them, int64 [B]; None if there was none.
        logits: of the pass that is computed now.
        trick: name of the trick, for the error message.

    Raises:
        TrickError: the pass is not over the whole batch.
    """
    if ids is None or len(ids) != len(logits):
        raise TrickError(f"{trick} needs whole batches, one image each: leave out meta_warmup")
    return ids


def last_places(ids: Tensor, images: int) -> Tensor:
    """For each place of a batch the last place with the same image, int64 [B], without waiting for a GPU.

    Args:
        ids: numbers of the images, int64 [B]; one may be there twice.
        images: how many training images there are.
    """
    places = torch.arange(len(ids), device=ids.device)
    return ids.new_zeros(images).scatter_reduce(0, ids, places, "amax")[ids]


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Inside the context, batch norms in training mode normalise by their batch but keep their running statistics."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def parameters_with_gradient(model: nn.Module) -> list[Tensor]:
    """The parameters that received a gradient in the last backward pass."""
    return [parameter for parameter in model.parameters() if parameter.grad is not None]
