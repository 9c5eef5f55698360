"""How fast the planned network predicts here: batch by batch, exactly and in the quick way."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from speedtrain.config import Config
from speedtrain.model.ensemble import Member
from speedtrain.model.inference import SAMPLE, Predictor
from speedtrain.network.classifier import Classifier, build_classifier, make_tricks
from speedtrain.training.plan import Plan

BATCH_SIZES = (1, 32, 256)
LEAST = 32
"""Images of a timed call, at least."""

Rows = list[dict[str, Any]]


def predictions(
    config: Config,
    plan: Plan,
    images: Tensor,
    classes: int,
    peaks: Mapping[str, float],
    seconds_per_call: Callable[[Callable[[], object], torch.device], float],
) -> Rows:
    """Images per second of predictions with one view of each image. Weights are random: the speed is the same.

    Args:
        config: the recipe.
        plan: width of the network.
        images: training images, uint8 [N, H, W, 3].
        classes: how many.
        peaks: precision → billions of operations per second of a matrix product.
        seconds_per_call: times a call on a device.

    Returns:
        A row per batch size and way (`exact`, or `quick`, as `model.inference` chooses it): `batch_size`, `way`,
        `precision`, `images_per_second`, `gflops` of the convolutions and linear layers, and `share_of_peak`.
    """
    device, count = images.device, max(*BATCH_SIZES, SAMPLE)
    side, tricks = images.shape[1], make_tricks(config.tricks)
    classifier = build_classifier(config.model, classes, plan.width or 0, config.head_scale, tricks, images, side)
    classifier.to(device).eval()
    some = images[torch.arange(count, device=device) % len(images)].cpu().numpy()
    operations = operations_per_image(classifier, images[:1])
    rows = []
    for size in BATCH_SIZES:
        for way in ("exact", "quick"):
            predictor = Predictor([Member(classifier)], device, augmented=False, exact=way == "exact", batch_size=size)
            predictor(some)  # the quick way is chosen
            timed: np.ndarray = some[: max(size, LEAST)]
            rate = len(timed) / seconds_per_call(partial(predictor, timed), device)
            gflops = rate * operations / 1e9
            row: dict[str, Any] = {"batch_size": size, "way": way, "precision": predictor.precision}
            row |= {"images_per_second": round(rate, 1), "gflops": round(gflops, 1)}
            rows.append({**row, "share_of_peak": round(gflops / peaks[predictor.precision], 4)})
    return rows


@torch.no_grad()
def operations_per_image(classifier: Classifier, image: Tensor) -> int:
    """Multiplications and additions of the convolutions and linear layers for one image, uint8 [1, H, W, 3]."""
    total = 0

    def count(layer: nn.Module, _: object, outputs: Tensor) -> None:
        nonlocal total
        assert isinstance(layer.weight, Tensor)
        positions = outputs.numel() // layer.weight.shape[0]
        total += 2 * layer.weight.numel() * positions

    layers = (module for module in classifier.modules() if isinstance(module, nn.Conv2d | nn.Linear))
    hooks = [layer.register_forward_hook(count) for layer in layers]
    classifier(classifier.normalise(image))
    for hook in hooks:
        hook.remove()
    return total
