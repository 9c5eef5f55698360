"""What accuracy to expect of the default recipe: a law fitted to recorded runs."""

import math
from dataclasses import dataclass

CLASSES = 10
PER_CLASS = 500
CONFIDENT = 1.96
"""Standard deviations within which 95 % lie."""


@dataclass(frozen=True)
class ScalingLaw:
    """Error as a sum of three powers: too few images, too narrow a network, too short a training.

        error = a (n / 500)^-α + b w^-β + c (e (n / 500)^δ)^-γ

    with n training images a class, width w and e epochs. The form follows the scaling laws of Rosenfeld et al., A
    Constructive Prediction of the Generalization Error Across Scales, 2019 (arXiv 1909.12673).

    Attributes:
        data, data_power: a and α.
        width, width_power: b and β.
        epochs, epochs_power: c and γ.
        epochs_per_data: δ, how much more an epoch of more images is.
        deviation: root mean square by which runs left out of the fit lie from it, in shares of 1.
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
        """What the law says of the share of wrong answers; above 1 where it promises less than nothing.

        Args:
            width: of the ResNet-9.
            epochs: times that every image is seen.
            images: training images, of all classes.
            classes: how many; as many images of more classes are fewer of each.
        """
        if epochs <= 0:
            return math.inf
        size = images / classes / PER_CLASS
        error = self.data * size**-self.data_power + self.width * width**-self.width_power
        return error + self.epochs * (epochs * size**self.epochs_per_data) ** -self.epochs_power

    def accuracy(self, width: float, epochs: float, images: int, classes: int = CLASSES) -> float:
        """Expected share of right answers, between chance and 1. Arguments as of `error`."""
        return max(1 / classes, 1 - self.error(width, epochs, images, classes))


@dataclass(frozen=True)
class FittedRange:
    """What lies within, or near, the runs that a law was fitted to.

    Attributes:
        classes: how many.
        widths, epochs, per_class: smallest and largest; images are counted a class.
    """

    classes: int
    widths: tuple[float, float]
    epochs: tuple[float, float]
    per_class: tuple[float, float]

    def holds(self, width: float, epochs: float, images: int, classes: int) -> bool:
        """Whether a run is of this kind. Arguments as of `ScalingLaw.error`."""
        ranges = ((width, self.widths), (epochs, self.epochs), (images / classes, self.per_class))
        return classes == self.classes and all(low <= value <= high for value, (low, high) in ranges)


RESNET9 = ScalingLaw(0.1548, 0.4134, 1.106, 1.31, 0.7398, 1.217, 0.1562, 0.00895)
"""Of ResNet-9 with the recipe `auto` and batches of 128, fitted to `results/planner` by `scripts/fit_planner.py`."""

RESNET9_RANGE = FittedRange(CLASSES, widths=(8, 64), epochs=(4, 150), per_class=(90, 2500))
