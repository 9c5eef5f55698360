"""Stochastic gradient descent that does without torch's compiler."""

import inspect
from collections.abc import Callable
from typing import Any

import torch

plain_step = inspect.unwrap(torch.optim.SGD.step)


class SGD(torch.optim.SGD):
    """`torch.optim.SGD`, with the options that training has.

    A step of torch's own imports the compiler, to tell it where gradients are off: two seconds of a budget.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, momentum: float, nesterov: bool, weight_decay: float
    ) -> None:
        super().__init__(groups, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return plain_step(self, closure)
