"""Batch norms as part of the convolutions before them: fewer passes over the feature maps, for predictions only."""

import torch
from torch import Tensor, nn

from tricks.blur_pool import MaxBlurPool2d
from tricks.mirror_equivariance import as_ordinary_layers
from tricks.patch_whitening import JoinedConv2d
from tricks.surgery import replace_modules


@torch.no_grad()
def fold_norms(network: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode, in which batch norms are part of the convolutions before them.

    In evaluation mode a batch norm is y = s x + b per channel, with s = γ / √(σ² + ε) and b = β − s μ. It becomes part
    of the convolution that gives x: the filters are multiplied by s, and b becomes the bias. A max-pool may stand
    between the two where no s is negative, since then it chooses the same positions.

    Patch whitening's pair of convolutions becomes one where it is computed as one.

    Only norms in an `nn.Sequential` are folded. Others, and those of another class than `nn.BatchNorm2d`, stay.
    """
    folded = as_ordinary_layers(network).eval()
    folded = replace_modules(folded, {m: m.joined() for m in folded.modules() if isinstance(m, JoinedConv2d)})
    for chain in folded.modules():
        if type(chain) is nn.Sequential:
            for place, norm in enumerate(chain):
                if type(norm) is nn.BatchNorm2d and _fold(chain, place, norm):
                    chain[place] = nn.Identity()
    return folded


def _fold(chain: nn.Sequential, place: int, norm: nn.BatchNorm2d) -> bool:
    """Folds the norm at this place of a chain into the convolution before it; returns whether it could."""
    if norm.running_mean is None or norm.running_var is None:
        return False
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -scale * norm.running_mean
    if norm.bias is not None:
        shift = shift + norm.bias
    before = place - 1
    if before >= 0 and isinstance(chain[before], nn.MaxPool2d | MaxBlurPool2d):
        if bool((scale < 0).any()):
            return False
        before -= 1
    layer = chain[before] if before >= 0 else None
    while type(layer) is nn.Sequential and len(layer):  # such as patch whitening's pair of convolutions
        layer = layer[-1]
    if not isinstance(layer, nn.Conv2d) or layer.out_channels != norm.num_features:
        return False
    bias: Tensor | None = layer.bias
    layer.weight.mul_(scale.view(-1, 1, 1, 1))
    layer.bias = nn.Parameter(shift if bias is None else shift + scale * bias)
    return True
