"""After how many epochs training ends, even if there is time left."""

import math

from speedtrain.config import Config
from speedtrain.training.long_runs import as_long_run, is_long

ENOUGH_EPOCHS, ENOUGH_IMAGES = 150, 250_000
ENOUGH_AUGMENTED_EPOCHS = 400
"""Where `max_epochs` is auto: so many epochs, or so many images seen in all, whichever is later. More were not measured
to help. On an H100, the average of four networks of width 64 had 84.6 % after 106 and 140 epochs of 5,000 images, and
83.9 % after 552. On a CPU, 639 epochs of 1,000 images were no better than 311, nor 646 epochs of 500 than 156
(docs/experiments.md).

With `trivial_augment`, networks of width 64 had 85.0 % on average after 118 epochs, and 85.5 % after 397, on an H200.
"""


def epoch_limit(config: Config, num_images: int) -> float:
    """The epochs of so many images after which training ends by `max_epochs`; infinity where it has no limit.

    Auto limits only ResNet-9 from random weights, since nothing else was measured.
    """
    if config.max_epochs == "auto":
        known = config.model == "resnet9" and config.from_random
        epochs = ENOUGH_AUGMENTED_EPOCHS if "trivial_augment" in config.tricks else ENOUGH_EPOCHS
        return max(epochs, ENOUGH_IMAGES / num_images) if known else math.inf
    return math.inf if config.max_epochs is None else config.max_epochs


def limited_epochs(config: Config, width: int | None, epochs: float, num_images: int) -> float:
    """How many of these epochs a network of this width trains for, with what a long run adds to it.

    Args:
        config: before the planner has decided about a long run.
        width: null for a timm model.
        epochs: for which there is time.
        num_images: N.
    """
    long = min(epochs, epoch_limit(as_long_run(config), num_images))
    if width is not None and is_long(config, width, long):
        return long
    return min(epochs, epoch_limit(config, num_images))
