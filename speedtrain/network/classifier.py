"""The classifier: a network, the statistics that its images are normalised by, and the tricks that change both."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speedtrain.errors import UserError
from speedtrain.network.resnet9 import ResNet9
from tricks import TRICKS, Trick

STATISTICS_PIXELS = 10_000 * 32 * 32
"""As many pixels give a covariance as exactly as those of all images."""
NORMALISATION_PIXELS = 100_000 * 32 * 32
"""As many pixels give mean and deviation as exactly as those of all images."""


class Classifier(nn.Module):
    """A network together with the statistics that its images are normalised by.

    Its state holds both, so that the weights file alone is enough to prepare an image.

    Args:
        network: normalised images [B, 3, H, W] → logits [B, K].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))

    @torch.no_grad()
    def measure(self, images: Tensor) -> None:
        """Computes mean and standard deviation of each channel of the training images, uint8 [N, H, W, 3].

        Of more than `NORMALISATION_PIXELS`, as many images are used as hold this number of pixels, evenly spaced.
        """
        images = _evenly(images, NORMALISATION_PIXELS)
        # float64 sums, one channel at a time: exact enough for any number of images, and little memory
        for channel in range(3):
            values = images[..., channel].flatten()
            counts = torch.bincount(values.int(), minlength=256).double()
            levels = torch.arange(256, dtype=torch.float64, device=counts.device) / 255
            mean = (counts * levels).sum() / counts.sum()
            variance = (counts * (levels - mean) ** 2).sum() / counts.sum()
            self.mean[channel] = mean
            self.std[channel] = variance.sqrt().clamp(min=1e-3)  # a constant channel stays finite

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] → float [B, 3, H, W] in channels-last memory, mean 0 and deviation 1 per channel."""
        return ((images.float() / 255 - self.mean) / self.std).permute(0, 3, 1, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] → logits [B, K]."""
        return self.network(images)


def _evenly(images: Tensor, pixels: int) -> Tensor:
    """Images [N, H, W, 3] evenly spaced, as many as hold so many pixels: a folder's images come sorted by class."""
    count = max(1, pixels // images[0, ..., 0].numel())
    if count >= len(images):
        return images
    return images[torch.arange(count, device=images.device) * len(images) // count]


def make_tricks(tricks: Mapping[str, Mapping[str, Any]]) -> list[Trick]:
    """New tricks from names and hyperparameters, in the same order: later ones wrap earlier ones."""
    return [TRICKS[name](**values) for name, values in tricks.items()]


def build_classifier(
    model: str,
    num_classes: int,
    width: int,
    head_scale: float,
    tricks: Sequence[Trick],
    images: Tensor | None,
    side: int = 32,
    labels: Tensor | None = None,
) -> Classifier:
    """The untrained classifier, with the tricks that act on data and model applied.

    Args:
        model: `resnet9` or `timm:NAME`.
        images: training images, uint8 [N, H, W, 3], to take statistics from; None where weights are loaded.
        side: of the images that the network is for, in pixels. Default: 32.
        labels: of all training images, int64 [N]. Default: all 0, for a network that is not to be trained.

    Raises:
        UserError: no such model, or timm cannot build it for images of this side.
        TrickError: a trick cannot act on this model.
    """
    if model == "resnet9":
        network: nn.Module = ResNet9(num_classes, width, head_scale, side)
    else:
        network = _timm_network(model, num_classes, side)
    classifier = Classifier(network)
    if images is not None:
        labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
        classifier.to(images.device).measure(images)
        if any("data" in trick.stages() for trick in tricks):
            normalised = classifier.normalise(_evenly(images, STATISTICS_PIXELS))
            for trick in tricks:
                trick.data(normalised, labels)
    for trick in tricks:
        classifier.network = trick.model(classifier.network)
    return classifier.to(memory_format=torch.channels_last)


def hub_tag(model: str) -> str:
    """What `timm:NAME.TAG` has behind the point: the name of pretrained weights. Empty where there is none."""
    return model.partition(".")[2]


def head_names(classifier: Classifier) -> tuple[str, ...]:
    """The names of the head's tensors in the classifier's state: their first dimension is the classes.

    They are those of the `head` of a ResNet-9, and of what timm names as a model's `classifier`.
    """
    cfg = getattr(classifier.network, "pretrained_cfg", None) or {}
    named = cfg.get("classifier") or "head"
    prefixes = tuple(f"network.{name}." for name in ((named,) if isinstance(named, str) else named))
    return tuple(name for name in classifier.state_dict() if name.startswith(prefixes))


def timm_name(model: str, side: int = 32) -> tuple[str, dict[str, Any]]:
    """The name of a model in timm, tag included, and the arguments that images of this side need.

    Raises:
        UserError: timm has no such model.
    """
    import timm

    tagged = model.removeprefix("timm:")
    name = tagged.removesuffix(f".{hub_tag(model)}")
    if name not in timm.list_models():
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise UserError(f"timm has no model {name!r}" + (f"; did you mean {' or '.join(close)}?" if close else ""))
    try:
        pretrained = timm.get_pretrained_cfg(tagged)
    except RuntimeError:  # its message lists no tags
        raise UserError(f"timm has no weights {hub_tag(model)!r} for {name}; leave the tag out") from None
    fixed = pretrained is not None and pretrained.fixed_input_size  # of transformers, which must know the size
    return tagged, {"img_size": side} if fixed else {}


def _timm_network(model: str, num_classes: int, side: int) -> nn.Module:
    """The network of timm with this name, its weights random."""
    import timm  # 1.3 s, which a ResNet-9's budget need not pay

    tagged, size = timm_name(model, side)
    name = tagged.removesuffix(f".{hub_tag(model)}")
    try:
        return timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=3, **size)
    except Exception as error:  # timm's models raise whatever they like
        raise UserError(f"timm cannot build {name}: {error}") from error
