"""CELU activations."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from tricks.surgery import replace_modules
from tricks.trick import Trick, TrickError

# By class name, to find also the variants that model libraries define themselves.
# Gates (sigmoid, tanh, softmax) are not replaced.
ACTIVATIONS = {"ReLU", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "ELU", "SELU", "CELU", "Softplus"} | {
    *("GELU", "GELUTanh", "QuickGELU", "SiLU", "Swish", "Hardswish", "HardSwish", "Mish", "HardMish")
}


@dataclass
class CELU(Trick):
    """Replaces every activation by CELU, a smooth ReLU that also passes gradients below zero.

        CELU(x) = max(0, x) + min(0, α (exp(x / α) − 1))

    Args:
        alpha: α. The output tends to −α for very negative inputs. Near 0, CELU becomes ReLU. Default: 0.3.
    """

    alpha: float = 0.3

    paper: ClassVar[str] = "Barron, Continuously Differentiable Exponential Linear Units, 2017 (arXiv 1704.07483)"

    def __post_init__(self) -> None:
        if not 0 < self.alpha < float("inf"):
            raise TrickError(f"alpha must be positive and finite, got {self.alpha}")

    def model(self, model: nn.Module) -> nn.Module:
        activations = [m for m in model.modules() if ACTIVATIONS & {c.__name__ for c in type(m).__mro__}]
        if not activations:
            raise TrickError("celu finds no activation module (such as nn.ReLU) to replace in this network")
        return replace_modules(
            model, {m: nn.CELU(self.alpha, inplace=getattr(m, "inplace", False)) for m in activations}
        )
