"""Training the head alone at first, or the upper layers alone."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from tricks.surgery import layers_of_parameters
from tricks.trick import Batch, Compute, Trick, TrickError


@dataclass
class FreezeTrunk(Trick):
    """Trains the upper layers alone, and until a given progress nothing but the head.

    For a network that starts from weights that are good already. What its lower layers see, edges and textures, is the
    same for other images; and the gradients of a new head, which is random, would at first do harm to the layers below
    it. What is frozen has no gradient and takes no step, and its batch norms normalise by their running statistics and
    keep them. A step is quicker the more is frozen: the lower layers work on the largest maps.

    The head is what `get_classifier()` returns, as networks of timm have it, or else the last linear layer.

    Args:
        lower: share of the layers, from the first on, that never train, at least 0 and below 1. Default: 0.0.
        until: progress until which all layers but the head are frozen, 0 to 1. Default: 0.2.
    """

    lower: float = 0.0
    until: float = 0.2

    interacts: ClassVar[str] = (
        "muon, gradient_centralization and sam act only on the layers that are trained. DistributedDataParallel must "
        "look for unused parameters."
    )
    paper: ClassVar[str] = "Howard and Ruder, Universal Language Model Fine-tuning, 2018 (arXiv 1801.06146)"

    def __post_init__(self) -> None:
        if not 0 <= self.lower < 1:
            raise TrickError(f"lower must be at least 0 and below 1, got {self.lower}")
        if not 0 <= self.until <= 1:
            raise TrickError(f"until must lie between 0 and 1, got {self.until}")

    def gradient(self, compute: Compute, model: nn.Module) -> Compute:
        head = {parameter for module in find_head(model) for parameter in module.parameters()}
        layer_of = layers_of_parameters(model)
        num_frozen = int(self.lower * (1 + max(layer_of.values())) + 1e-9)
        trunk = [parameter for parameter in model.parameters() if parameter not in head and parameter.requires_grad]
        lower = {parameter for parameter in trunk if layer_of[parameter] < num_frozen}
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        frozen_norms: list[nn.Module] = []
        only_head: bool | None = None

        def freezing(batch: Batch) -> Tensor:
            nonlocal only_head, frozen_norms
            if only_head != (batch.progress < self.until):
                only_head = batch.progress < self.until
                for parameter in trunk:
                    parameter.requires_grad_(not only_head and parameter not in lower)
                    parameter.grad = None
                for norm in frozen_norms:
                    norm.train()
                frozen_norms = [norm for norm in norms if only_head or lower & set(norm.parameters())]
            for norm in frozen_norms:  # a training loop may have set the whole network to training mode meanwhile
                norm.training = False
            return compute(batch)

        return freezing


def find_head(model: nn.Module) -> tuple[nn.Module, ...]:
    """The head of a classifier; some networks have several.

    Raises:
        TrickError: the network has no linear layer.
    """
    for module in model.modules():
        if callable(get := getattr(module, "get_classifier", None)):
            head = get()
            return tuple(head) if isinstance(head, tuple | list) else (head,)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise TrickError("freeze_trunk finds no head: the network has no linear layer")
    return (linear[-1],)
