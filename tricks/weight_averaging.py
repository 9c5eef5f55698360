"""Weight averaging."""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from tricks.trick import State, Trick, TrickError


@dataclass
class WeightAveraging(Trick):
    """Keeps and predicts with a moving average of the weights, which varies less than the last weights.

    At the n-th update

        θ̄ ← d θ̄ + (1 − d) θ        d = min(decay, (1 + n) / (10 + n))

    so that the average soon forgets the weights of the first step. Before the first update, the last weights predict.
    Batch norm's running statistics are averaged too; integers (its counter) are copied.

    Args:
        decay: largest d, at least 0 and below 1. Default: 0.99.
        interval: update on every `interval`-th step only. Default: 5.
    """

    decay: float = 0.99
    interval: int = 5

    interacts: ClassVar[str] = (
        "The averaged weights are saved and used for predictions, not the last weights, unless they fit the training "
        "images clearly worse at the end of a run. progressive_resizing: just after a change of the image size, the "
        "average still holds batch norm statistics of the smaller images."
    )
    paper: ClassVar[str] = "Polyak & Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992"

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise TrickError(f"decay must be at least 0 and below 1, got {self.decay}")
        if not self.interval >= 1:
            raise TrickError(f"interval must be at least 1, got {self.interval}")
        self._average: State = {}
        self._updates = 0

    @torch.no_grad()
    def weights(self, state: State, step: int) -> State:
        if step == 0 or not self._average:
            self._average = _copied(state)
            self._updates = 0
        elif step % self.interval == 0:
            self._updates += 1
            decay = min(self.decay, (1 + self._updates) / (10 + self._updates))
            floats = [name for name, tensor in state.items() if tensor.is_floating_point()]
            average = [self._average[name] for name in floats]
            torch._foreach_lerp_(average, [state[name] for name in floats], 1 - decay)
            for name in state.keys() - floats:
                self._average[name].copy_(state[name])
        return self._average if self._updates else _copied(state)

    def state(self) -> dict[str, Any]:
        return copy.deepcopy({"average": self._average, "updates": self._updates})

    def load_state(self, state: dict[str, Any]) -> None:
        self._average, self._updates = copy.deepcopy(state["average"]), state["updates"]


def _copied(state: State) -> State:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
