"""Convolutions of low rank."""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tricks.surgery import replace_modules
from tricks.trick import Batch, Compute, Trick, TrickError, frozen_statistics

TILE = 16
"""Ranks are multiples of it. A convolution computes so many channels at once: a register of AVX-512, and a row of sums
in AMX, hold 16 numbers. Tensor cores of GPUs take 8 or 16. A rank in between costs as much as the next multiple."""
TURNS = 5
"""How often a convolution and its factors are timed, in turns. The shortest time of each counts."""


class SecondFactor(nn.Conv2d):
    """The 1×1 convolution from r channels to the outputs. The first factor stands before it in an `nn.Sequential`."""


@dataclass
class LowRank(Trick):
    """Replaces larger convolutions by two smaller ones: k×k from I to r channels, then 1×1 from r to O channels.

    A kernel W [O, I, k, k], flattened to [O, I·k²], becomes a product of rank r. At the start it is the best
    approximation of the initial kernel, by the singular value decomposition W₀ = U S Vᵀ:

        W = B A        A = √S_r V_rᵀ  [r, I, k, k]        B = U_r √S_r  [O, r, 1, 1]

    S_r are the r largest singular values. A position of the output needs r (I k² + O) multiplications, not O I k².

    Candidates are all convolutions to train that are larger than 1×1, have one group, and do not see the three channels
    of the image. A candidate stays as it is if r is 0, or if the factors would not need fewer multiplications.

    r is chosen by timing (`fastest_ranks`): a convolution forwards and backwards, on this machine, against factors
    whose rank is a multiple of 16 and saves the share `margin` of the multiplications. The largest rank that saves this
    share of the time too is taken; if there is none, the convolution stays. The time of the optimizer is not counted.
    `speedtrain` times after the planner has chosen width and precision, and stores the ranks with the weights. So the
    network has the same structure wherever it is loaded. In a training loop of your own, pass the result of
    `fastest_ranks` as `ranks`.

    Sequential freezing (`freeze: alternate`) divides training into `turns` parts of equal length. In the first, third,
    fifth … part A learns, in the others B does. What is frozen has no gradient, no weight decay and no momentum: its
    momentum is dropped, and begins anew when it learns again. This needs the stages gradient and step together.

    A smaller rank saves time, and so does a smaller width. On a CPU with AMX, this trick made a step 7 to 21 % faster
    and cost three points of accuracy on CIFAR-10, in 60, 120 and 600 s. A plain, narrower network is better.

    From the papers: ranks by timing, and sequential freezing. The papers decompose trained convolutions, each into
    three. Ours: two factors with the same singular values, from the start, and the rule for r. A warm-up at full rank
    is left out: its end would replace parameters, and the optimizer's momentum, averaged weights and saved states
    belong to the parameters that there were before.

    Args:
        ranks: r of each candidate, in the order of the network; 0 keeps it. If empty, r is found by `timed` or by
            `share`. Default: ().
        timed: whether `speedtrain` finds the ranks by timing. If not, where training starts from given weights, and
            outside `speedtrain`, `share` counts. Default: True.
        margin: share of a convolution's time that its factors must save, at least 0 and below 1. Not measured against
            other values. Default: 0.25.
        share: r as a share of the full rank min(O, I·k²), rounded up to a multiple of 16; above 0 and at most 1.
            Default: 0.5.
        freeze: none or alternate. Default: none.
        turns: number of parts of training for `freeze: alternate`, at least 2. Default: 10.

    Raises:
        TrickError: there is no candidate, there is another number of ranks than of candidates, or another trick builds
            the kernels.
    """

    ranks: tuple[int, ...] = ()
    timed: bool = True
    margin: float = 0.25
    share: float = 0.5
    freeze: Literal["none", "alternate"] = "none"
    turns: int = 10

    interacts: ClassVar[str] = (
        "mirror_equivariance and harmonic: leave them out. They build kernels in every step, and this trick refuses "
        "such kernels. patch_whitening: its convolutions stay as they are. progressive_resizing: the ranks are timed "
        "on images of the full size. muon makes the update of each factor orthogonal, not that of their product. "
        "Weight decay acts on both factors, so their product shrinks twice as fast. gradient_centralization "
        "centralizes the gradient of each factor. sam and momentum_sam measure distances in factors. "
        "layerwise_learning_rate counts two layers. With freeze: alternate, leave out freeze_trunk, which freezes and "
        "thaws the same layers; DistributedDataParallel must look for unused parameters."
    )
    paper: ClassVar[str] = (
        "Hajimolahoseini et al., Accelerating the Low-Rank Decomposed Models, 2024 (arXiv 2407.20266), and Training "
        "Acceleration of Low-Rank Decomposed Networks, 2023 (arXiv 2309.03824)"
    )

    def __post_init__(self) -> None:
        if not all(isinstance(rank, int) and rank >= 0 for rank in self.ranks):
            raise TrickError(f"ranks must be whole numbers from 0 on, got {self.ranks}")
        if not 0 <= self.margin < 1:
            raise TrickError(f"margin must be at least 0 and below 1, got {self.margin}")
        if not 0 < self.share <= 1:
            raise TrickError(f"share must be above 0 and at most 1, got {self.share}")
        if self.freeze not in ("none", "alternate"):
            raise TrickError(f"freeze must be none or alternate, got {self.freeze!r}")
        if not self.turns >= 2:
            raise TrickError(f"turns must be at least 2, got {self.turns}")
        self._optimizer: torch.optim.Optimizer | None = None
        self._turn: int | None = None

    def model(self, model: nn.Module) -> nn.Module:
        layers = candidates(model)
        ranks = self.ranks or [rank_of_share(layer, self.share) for layer in layers]
        if len(ranks) != len(layers):
            raise TrickError(
                f"low_rank: ranks are for {len(ranks)} convolutions, and this network has {len(layers)} candidates"
            )
        chosen = {layer: rank for layer, rank in zip(layers, ranks, strict=True) if 0 < rank < break_even(layer)}
        return replace_modules(model, {layer: factorised(layer, rank) for layer, rank in chosen.items()})

    def gradient(self, compute: Compute, model: nn.Module) -> Compute:
        pairs = factors_in(model)
        if self.freeze == "none" or not pairs:
            return compute
        factors = [[parameter for pair in pairs for parameter in pair[place].parameters()] for place in (0, 1)]

        def alternating(batch: Batch) -> Tensor:
            turn = min(int(batch.progress * self.turns), self.turns - 1)
            for place, parameters in enumerate(factors):
                learns = place == turn % 2
                for parameter in parameters:
                    parameter.requires_grad_(learns)
                    if not learns:
                        parameter.grad = None
                    if turn != self._turn and self._optimizer is not None:
                        self._optimizer.state.pop(parameter, None)
            self._turn = turn
            return compute(batch)

        return alternating

    def step(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
        self._optimizer = optimizer
        return optimizer

    def state(self) -> dict[str, Any]:
        return {"turn": self._turn}

    def load_state(self, state: dict[str, Any]) -> None:
        self._turn = state["turn"]


def candidates(model: nn.Module) -> list[nn.Conv2d]:
    """The convolutions that may be factorised, in the order of the network.

    Raises:
        TrickError: there are none, or another trick builds their kernels.
    """
    larger = [m for m in model.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    if any(parametrize.is_parametrized(layer, "weight") for layer in larger):
        raise TrickError("low_rank cannot factorise kernels that mirror_equivariance or harmonic builds: leave one out")
    found = [
        layer
        for layer in larger
        if layer.weight.requires_grad
        and layer.groups == 1
        and layer.in_channels > 3
        and dict(layer.named_parameters()).keys() <= {"weight", "bias"}  # others may count the outputs too
    ]
    if not found:
        raise TrickError("low_rank finds no convolution to factorise: one to train, larger than 1×1, behind the first")
    return found


def break_even(layer: nn.Conv2d) -> float:
    """The rank at which the factors need as many multiplications as the convolution: O·I·k² / (O + I·k²)."""
    outputs, inputs = layer.weight.flatten(1).shape
    return outputs * inputs / (outputs + inputs)


def rank_of_share(layer: nn.Conv2d, share: float) -> int:
    """A share of a convolution's full rank, rounded up to a multiple of the tile."""
    return TILE * math.ceil(share * min(layer.weight.flatten(1).shape) / TILE)


@torch.no_grad()
def factorised(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    """Factors whose product is the best approximation of the kernel by one of this rank."""
    left, values, right = torch.linalg.svd(layer.weight.flatten(1).cpu(), full_matrices=False)
    root = values[:rank].sqrt()
    return as_factors(layer, (root[:, None] * right[:rank]).to(layer.weight), (left[:, :rank] * root).to(layer.weight))


def as_factors(layer: nn.Conv2d, first: Tensor, second: Tensor) -> nn.Sequential:
    """Two convolutions in the place of one. The first has its class, stride and padding, the second its bias.

    Args:
        layer: is left as it is.
        first: A, [r, I·k²] or [r, I, k, k].
        second: B, [O, r].
    """
    rank = len(first)
    spatial = copy.deepcopy(layer)  # its class may know a quick way for the processor
    spatial.out_channels, spatial.bias = rank, None
    spatial.weight = nn.Parameter(first.reshape(rank, *layer.weight.shape[1:]))
    mixing = SecondFactor(rank, layer.out_channels, 1, bias=False)
    mixing.weight = nn.Parameter(second.reshape(-1, rank, 1, 1))
    mixing.bias = layer.bias
    channels_last = layer.weight.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return nn.Sequential(spatial, mixing).train(layer.training).to(memory_format=layout)


def factors_in(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """The two factors of every factorised convolution, in the order of the network."""
    chains = [m for m in model.modules() if isinstance(m, nn.Sequential) and len(m) == 2]
    return [(chain[0], chain[1]) for chain in chains if isinstance(chain[1], SecondFactor)]


def fastest_ranks(
    model: nn.Module,
    images: Tensor,
    margin: float = LowRank.margin,
    precision: torch.dtype = torch.float32,
    until: float = math.inf,
) -> tuple[int, ...]:
    """The rank of each candidate by timing it on this machine, as `LowRank` takes it; 0: it stays.

    Of the multiples of the tile that save the share `margin` of the multiplications, it is the largest that saves this
    share of the time too. Convolutions of the same shape are timed once. Those with the most multiplications come
    first, and each has an equal part of the time that is left.

    Args:
        model: before `LowRank` has changed it, on the device that trains. Its weights and statistics stay.
        images: a batch as training has it, float [B, C, H, W].
        margin: as in `LowRank`. Default: 0.25.
        precision: of automatic mixed precision, bfloat16 or float16; float32 for none. Default: float32.
        until: value of `time.monotonic()` from which no further rank is timed: the largest that was found to save
            enough counts. Default: never.

    Raises:
        TrickError: there is no candidate, or another trick builds the kernels.
    """
    layers = candidates(model)
    inputs = inputs_of(layers, model, images, precision)
    shapes = {layer: (type(layer), layer.extra_repr(), inputs[layer].shape) for layer in layers}
    kinds = {shapes[layer]: layer for layer in layers}  # one layer of each shape
    costs = {
        layer: layer.weight.numel() * inputs[layer][0, 0].numel() / math.prod(layer.stride) for layer in kinds.values()
    }
    found: dict[object, int] = {}
    for place, layer in enumerate(sorted(costs, key=lambda layer: -costs[layer])):
        now = time.monotonic()
        part = (until - now) / (len(costs) - place)
        found[shapes[layer]] = fastest_rank(layer, inputs[layer], margin, precision, now + part)
    return tuple(found[shapes[layer]] for layer in layers)


def fastest_rank(layer: nn.Conv2d, inputs: Tensor, margin: float, precision: torch.dtype, until: float) -> int:
    """The rank of one convolution, by timing it on inputs [B, I, H, W]; other arguments as for `fastest_ranks`.

    By halving what is left to search: a smaller rank takes less time.
    """
    kernel = layer.weight.detach()
    saves, least_slow = 0, int((1 - margin) * break_even(layer) / TILE) + 1  # in tiles
    while saves + 1 < least_slow and time.monotonic() < until:
        middle = (saves + least_slow) // 2
        rank = TILE * middle
        factors = as_factors(layer, kernel[:rank], kernel.flatten(1)[:, :rank])  # any numbers take the same time
        if share_of_time(factors, layer, inputs, precision) <= 1 - margin:
            saves = middle
        else:
            least_slow = middle
    return TILE * saves


@torch.no_grad()
def inputs_of(
    layers: Sequence[nn.Conv2d], model: nn.Module, images: Tensor, precision: torch.dtype
) -> dict[nn.Conv2d, Tensor]:
    """What each of these convolutions receives when the model sees the images."""
    received: dict[nn.Conv2d, Tensor] = {}

    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Conv2d)
        received.setdefault(layer, inputs[0])

    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        with frozen_statistics(model), autocast(images.device, precision):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return received


def share_of_time(factors: nn.Module, layer: nn.Module, inputs: Tensor, precision: torch.dtype) -> float:
    """The time of the factors, forwards and backwards, as a share of the convolution's."""
    for module in factors, layer:  # the first pass makes kernels
        seconds_of_pass(module, inputs, precision)
    # in turns: the machine's speed may change
    turns = [
        (seconds_of_pass(factors, inputs, precision), seconds_of_pass(layer, inputs, precision)) for _ in range(TURNS)
    ]
    ours, theirs = map(min, zip(*turns, strict=True))
    return ours / theirs


def seconds_of_pass(module: nn.Module, inputs: Tensor, precision: torch.dtype) -> float:
    """Seconds of one pass forwards and backwards, with the gradients of inputs and weights."""
    inputs = inputs.detach().requires_grad_()
    begun = time.monotonic()
    with autocast(inputs.device, precision):
        outputs = module(inputs)
    torch.autograd.grad(outputs, [inputs, *module.parameters()], outputs.detach())  # as large as any gradient
    if inputs.is_cuda:
        torch.cuda.synchronize()
    return time.monotonic() - begun


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Automatic mixed precision; none in float32."""
    return torch.autocast(device.type, precision, enabled=precision is not torch.float32)
