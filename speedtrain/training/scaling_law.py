"""Which accuracy to predict for the default recipe: a scaling law, fitted to recorded runs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from speedtrain.config import Config
from speedtrain.network.resnet9 import LARGE

CLASSES = 10
PER_CLASS = 500
BATCH_SIZE = 128
SIDE = 32
"""Of the runs that the scaling law was fitted to."""
Z_95 = 1.96
"""Standard deviations within which 95 % of a normal distribution lie."""


@dataclass(frozen=True)
class ScalingLaw:
    """Error as a sum of three powers: too few images, too narrow a network, too short a training.

        error = a (n / 500)^-α + b w^-β + c (e (n / 500)^δ)^-γ

    with n training images per class, width w and e epochs. The form follows Rosenfeld et al., A Constructive
    Prediction of the Generalization Error Across Scales, 2019 (arXiv 1909.12673).

    Attributes:
        data, data_power: a and α.
        width, width_power: b and β.
        epochs, epochs_power: c and γ.
        epochs_per_data: δ, how much more an epoch of more images is.
        deviation: root mean square error on runs left out of the fit, in shares of 1.
    """

    data: float
    data_power: float
    width: float
    width_power: float
    epochs: float
    epochs_power: float
    epochs_per_data: float
    deviation: float

    def error(self, width: float, epochs: float, images: int, classes: int = CLASSES) -> float:
        """The predicted share of wrong answers; above 1 where the law predicts less than nothing.

        Args:
            width: of the ResNet-9.
            epochs: times that training sees every image.
            images: training images, of all classes.
            classes: how many; the same number of images of more classes is fewer images per class. Default: 10.
        """
        if epochs <= 0:
            return math.inf
        size = images / classes / PER_CLASS
        error = self.data * size**-self.data_power + self.width * width**-self.width_power
        return error + self.epochs * (epochs * size**self.epochs_per_data) ** -self.epochs_power

    def accuracy(self, width: float, epochs: float, images: int, classes: int = CLASSES) -> float:
        """The predicted share of right answers, between chance and 1. Arguments as for `error`."""
        return max(1 / classes, 1 - self.error(width, epochs, images, classes))


@dataclass(frozen=True)
class FittedRange:
    """The range of the runs that a law was fitted to, or near it.

    Attributes:
        classes: how many.
        widths, epochs, per_class: smallest and largest; `per_class` counts training images per class.
    """

    classes: int
    widths: tuple[float, float]
    epochs: tuple[float, float]
    per_class: tuple[float, float]

    def contains(self, width: float, epochs: float, images: int, classes: int) -> bool:
        """Whether a run lies in it. Arguments as for `ScalingLaw.error`."""
        ranges = ((width, self.widths), (epochs, self.epochs), (images / classes, self.per_class))
        return classes == self.classes and all(low <= value <= high for value, (low, high) in ranges)


RESNET9 = ScalingLaw(0.1548, 0.4134, 1.106, 1.31, 0.7398, 1.217, 0.1562, 0.00895)
"""Of ResNet-9 with `FITTED_SETTINGS` and batches of 128, fitted to `results/planner` by `scripts/fit_planner.py`."""

LARGE_IMAGES = replace(RESNET9, width=0.4 * RESNET9.width)
"""Of images of 64 pixels a side and more, for which ResNet-9 has a stage more, to choose a width by. The factor makes
the widths 8, 12 and 16 come out as measured on photographs of clothes: with RESNET9, too wide networks were chosen, 24
instead of 12 to 16 for 300 s (docs/experiments.md)."""

RESNET9_RANGE = FittedRange(CLASSES, widths=(8, 64), epochs=(4, 150), per_class=(90, 2500))

FITTED_SETTINGS: dict[str, Any] = {
    "tricks": {
        "patch_whitening": {"eps": 0.01, "kernel": 3},
        "celu": {"alpha": 0.3},
        "random_crop": {"padding": 4},
        "flip": {"probability": 0.5},
        "label_smoothing": {"smoothing": 0.2},
        "gradient_centralization": {},
        "muon": {"lr": 0.1, "momentum": 0.6, "nesterov": True, "steps": 5, "weight_decay": 0.1},
        "weight_averaging": {"decay": 0.99, "interval": 5},
        "test_time_augmentation": {"mode": "mirror+shift"},
    },
    "lr": 0.2,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "schedule": [(0.0, 0.1), (0.2, 1.0), (1.0, 0.0)],
    "head_scale": 0.125,
}
"""The recipe of the runs that `RESNET9` was fitted to. It predicts nothing for any other: who changes the default
recipe fits the law anew."""


def is_fitted(config: Config) -> bool:
    """Whether a recipe is the one that the law was fitted to, but for its width."""
    return all(_plain(getattr(config, key)) == _plain(value) for key, value in FITTED_SETTINGS.items())


def law_for(side: int) -> ScalingLaw:
    """The law to choose a width by, for images of this side in pixels."""
    return LARGE_IMAGES if side >= LARGE else RESNET9


def predict_accuracy(
    config: Config,
    plan: Mapping[str, Any],
    num_images: int,
    num_classes: int,
    num_test_images: int,
    *,
    native: bool,
) -> dict[str, float] | None:
    """The accuracy to expect of a plan on photographs as hard as CIFAR-10's, with a 95 % interval of single runs.

    The interval joins two normal spreads: that of the law (by runs left out of its fit), and that of the test sample.

    Args:
        config: of the run.
        plan: as in `result.json`; one that had nothing to decide has no accuracy.
        num_images: training images, of all classes.
        num_classes: K.
        num_test_images: how many the run is scored on.
        native: whether the training images were 32×32 in colour already.

    Returns:
        `accuracy`, `low` and `high`; None for other images, recipes, networks, batch sizes and starting weights than
        those of the fitted runs, and outside the range of those runs.
    """
    accuracy: float | None = plan.get("accuracy")
    same_images = native and plan["side"] == SIDE
    if (
        accuracy is None
        or not config.from_random
        or not (same_images and is_fitted(config))
        or plan["batch_size"] != BATCH_SIZE
    ):
        return None
    networks = plan.get("members", [plan])
    if any(each.get("added") for each in networks):  # no run of the fit had them
        return None
    if not all(RESNET9_RANGE.contains(each["width"], each["epochs"], num_images, num_classes) for each in networks):
        return None
    half_width = Z_95 * math.hypot(RESNET9.deviation, math.sqrt(accuracy * (1 - accuracy) / num_test_images))
    low, high = max(0.0, accuracy - half_width), min(1.0, accuracy + half_width)
    return {"accuracy": accuracy, "low": low, "high": high}


def _plain(value: Any) -> Any:
    """Lists and tuples alike: a configuration that was read from a file has either."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
