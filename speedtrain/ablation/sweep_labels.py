"""The images of a sweep, with the labels of all annotators, since each variant may take them in another way."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from speedtrain.config import Config
from speedtrain.data import Data
from speedtrain.data.annotators import DEFAULT, labels_for_training
from speedtrain.data.configured import load_given
from speedtrain.errors import UserError


def load_for_sweep(configs: Iterable[Config], largest: Config, data: Any, test: Any, **options: Any) -> Data:
    """The images of all variants, with every annotator's labels.

    Args:
        configs: of the variants.
        largest: the one that allows the largest images.
        data, test, options: as for `load_given`.

    Raises:
        UserError: as for `load_given`, a variant takes the labels in a way that is not possible, or the images are
            too large for memory.
    """
    ways = {config.labels for config in configs}
    loaded = load_given(replace(largest, labels=None if ways == {None} else DEFAULT), data, test, **options)
    if isinstance(loaded.train.images, np.memmap):
        size = f"{len(loaded.train.images)} images of {loaded.side}×{loaded.side} pixels"
        raise UserError(f"{size} are too large for a sweep, which keeps them in memory: give a smaller --side")
    if loaded.annotators is not None:
        for way in ways:
            labels_for_training(loaded.train, way, seed=0)
    return loaded


def with_labels(config: Config, data: Data) -> Config:
    """The configuration that says what the labels become, where there are several and it says nothing."""
    if data.annotators is None or config.labels is not None:
        return config
    return replace(config, labels=DEFAULT)
