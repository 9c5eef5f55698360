"""From saved weights to predictions and a score, off the clock."""

from pathlib import Path

import numpy as np
import torch

from speedtrain.config import Config
from speedtrain.errors import UserError
from speedtrain.model.weights import load_weights
from speedtrain.network.resnet9 import Classifier, build_classifier, make_tricks
from tricks import Forward

BATCH = 500


def load_classifier(config: Config, weights: Path) -> tuple[Classifier, tuple[str, ...]]:
    """The trained classifier, and the names of its classes, from a run's configuration and its weights file.

    Raises:
        UserError: the weights cannot be read, or are not of this network.
    """
    state, facts = load_weights(weights)
    classes = facts.get("classes")
    if not isinstance(classes, list):
        raise UserError(f"{weights}: not the weights of a run")
    width = 0 if config.width == "auto" else config.width
    classifier = build_classifier(config.model, len(classes), width, config.head_scale, make_tricks(config), None)
    try:
        classifier.load_state_dict(state)
    except RuntimeError:
        raise UserError(f"{weights}: these weights are not of the network in the run's config.yaml") from None
    return classifier.eval(), tuple(classes)


@torch.inference_mode()
def predict(classifier: Classifier, config: Config, images: np.ndarray, device: torch.device) -> np.ndarray:
    """Class probabilities float32 [N, K] of images uint8 [N, H, W, 3], in full precision."""
    classifier = classifier.to(device)
    forward: Forward = classifier
    for trick in make_tricks(config):
        forward = trick.prediction(forward)
    parts = [
        forward(classifier.normalise(torch.tensor(images[begin : begin + BATCH], device=device))).softmax(1).cpu()
        for begin in range(0, len(images), BATCH)
    ]
    return torch.cat(parts).numpy()
