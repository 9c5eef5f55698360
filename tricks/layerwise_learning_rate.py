"""Learning rates by depth."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from tricks.surgery import layers_of_parameters
from tricks.trick import Trick, TrickError


@dataclass
class LayerwiseLearningRate(Trick):
    """Trains the lower layers of a network at lower learning rates than the head.

    For a network that starts from weights that are good already: what its lower layers see, edges and textures, is
    the same for other classes. Layer i of 0 … L−1, in the order in which the network defines them, gets

        ηᵢ = η · first^(1 − i/(L−1))

    so that the first layer's rate is `first` times the head's. A layer is a module with a weight of more than one
    dimension; norms and biases go with the layer before them.

    Args:
        first: the first layer's share of the learning rate, above 0 and at most 1. Default: 0.1.
    """

    first: float = 0.1

    interacts: ClassVar[str] = (
        "muon: its learning rates are scaled by depth too. Where weight decay is relative to the learning rate, as in "
        "muon, the lower layers also get less weight decay."
    )
    paper: ClassVar[str] = "Howard and Ruder, Universal Language Model Fine-tuning, 2018 (arXiv 1801.06146)"

    def __post_init__(self) -> None:
        if not 0 < self.first <= 1:
            raise TrickError(f"first must be above 0 and at most 1, got {self.first}")

    def step(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
        layer_of = layers_of_parameters(model)
        last = max(layer_of.values(), default=0)
        groups = []
        for group in optimizer.param_groups:
            layered: dict[int, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                layered.setdefault(layer_of[parameter], []).append(parameter)
            for layer, parameters in layered.items():
                share = self.first ** (1 - layer / max(1, last))
                groups.append({**group, "params": parameters, "lr": group["lr"] * share})
        optimizer.param_groups[:] = groups
        return optimizer
