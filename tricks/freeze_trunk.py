"""Training the head alone at first."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from tricks.trick import Batch, Compute, Trick, TrickError


@dataclass
class FreezeTrunk(Trick):
    """Trains the head alone until a given progress, then the whole network.

    For a network that starts from weights that are good already, with a new head: the gradients of a random head would
    at first do harm to the layers below. Meanwhile the trunk has no gradient and takes no step, its batch norms
    normalise by their running statistics and keep them, and a step costs about a third.

    The head is what `get_classifier()` returns, as networks of timm have it, or else the last linear layer.

    Args:
        until: progress at which the trunk begins to train, 0 to 1. Default: 0.2.
    """

    until: float = 0.2

    interacts: ClassVar[str] = (
        "muon, gradient_centralization and sam act on the head alone while the trunk is frozen. "
        "DistributedDataParallel must look for unused parameters."
    )
    paper: ClassVar[str] = "Howard and Ruder, Universal Language Model Fine-tuning, 2018 (arXiv 1801.06146)"

    def __post_init__(self) -> None:
        if not 0 <= self.until <= 1:
            raise TrickError(f"until must lie between 0 and 1, got {self.until}")

    def gradient(self, compute: Compute, model: nn.Module) -> Compute:
        head = set(find_head(model).parameters())
        trunk = [parameter for parameter in model.parameters() if parameter not in head and parameter.requires_grad]
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        frozen = False

        def freezing(batch: Batch) -> Tensor:
            nonlocal frozen
            freeze = batch.progress < self.until
            if freeze != frozen:
                frozen = freeze
                for parameter in trunk:
                    parameter.requires_grad_(not freeze)
                    parameter.grad = None
                for norm in norms:
                    norm.train(not freeze)
            if freeze:
                for norm in norms:  # a training loop may have set the whole network to training mode meanwhile
                    norm.training = False
            return compute(batch)

        return freezing


def find_head(model: nn.Module) -> nn.Module:
    """The head of a classifier.

    Raises:
        TrickError: the network has no linear layer.
    """
    for module in model.modules():
        if callable(get := getattr(module, "get_classifier", None)) and isinstance(head := get(), nn.Module):
            return head
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise TrickError("freeze_trunk finds no head: the network has no linear layer")
    return linear[-1]
