"""Divergence: a loss or weights that are no longer finite, and the way back."""

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from speedtrain.training.lightning_module import Training
from tricks import State


class Stateful(Protocol):
    """What carries something from step to step, beside weights and optimizer."""

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, Any]) -> None: ...


class DivergenceGuard:
    """Keeps a sound state of training, and returns to it when training diverges, at half the learning rate.

    Args:
        training: what is watched.
        others: what else must go back, such as tricks that average weights.

    Attributes:
        lr_factor: factor on the schedule's learning rate: 1, halved with every rollback.
        rollbacks: how often training went back.
    """

    def __init__(self, training: Training, others: Sequence[Stateful]) -> None:
        self.lr_factor = 1.0
        self.rollbacks = 0
        self._training, self._others = training, (training.loss_scale, *others)
        self._rolled_back_at = -1

    def snapshot(self, averaged: State) -> None:
        """Keeps the present state.

        Args:
            averaged: the weights to save and predict with, which averaging may have made.
        """
        live = self._training.classifier.state_dict()
        optimizer = self._training.optimizer.optimizer.state_dict()
        self._kept = copy.deepcopy((live, averaged, optimizer, [each.state() for each in self._others]))
        self._kept_step = self._training.num_steps

    def is_finite(self, averaged: State | None = None) -> bool:
        """Whether the last loss is finite, and with `averaged` given, whether all weights are."""
        assert self._training.last_loss is not None
        finite = self._training.last_loss.isfinite()
        if averaged is not None:
            weights = (*self._training.classifier.state_dict().values(), *averaged.values())
            floats = [tensor for tensor in weights if tensor.is_floating_point()]
            finite = finite & torch.stack(torch._foreach_norm(floats)).isfinite().all()
        return bool(finite)

    @property
    def rolled_back_now(self) -> bool:
        """Whether the last step was one that training went back from."""
        return self._rolled_back_at == self._training.num_steps

    def go_back(self) -> State:
        """Returns to the last snapshot; gives its averaged weights."""
        live, averaged, optimizer, states = copy.deepcopy(self._kept)
        self._training.classifier.load_state_dict(live)
        self._training.optimizer.optimizer.load_state_dict(optimizer)
        for each, state in zip(self._others, states, strict=True):
            each.load_state(state)
        return averaged

    def roll_back(self) -> tuple[State, str | None]:
        """Returns to the last snapshot, and halves the learning rate.

        Returns:
            The averaged weights of the snapshot; and a message for the user, or None: the 1st, 2nd, 4th, 8th, …
            rollback have one, since training that diverges once often does so again and again.
        """
        averaged = self.go_back()
        self._rolled_back_at = self._training.num_steps
        self.lr_factor /= 2
        self.rollbacks += 1
        if self.rollbacks & (self.rollbacks - 1):
            return averaged, None
        message = (
            f"step {self._training.num_steps}: the loss is not finite (time {self.rollbacks}); back to the weights of "
            f"step {self._kept_step}, learning rate halved (now {self.lr_factor:g} of the plan's)"
        )
        return averaged, message
