"""Weights files: of a small network, without a run that trained it; and whether two are the same."""

from pathlib import Path
from typing import Any

import torch
from labelled_images import some_images

from speedtrain.model.weights import load_weights, save_weights
from speedtrain.network.classifier import build_classifier, make_tricks

CLASSES = ["cat", "dog", "owl"]
TRICKS: dict[str, dict[str, Any]] = {
    "patch_whitening": {"eps": 0.01, "kernel": 3},
    "celu": {"alpha": 0.3},
    "test_time_augmentation": {"mode": "mirror+shift"},
}


def same_bits(one: Path, other: Path) -> bool:
    """Whether the weights of two runs are the same, bit for bit."""
    first, second = (load_weights(run / "weights.safetensors")[0] for run in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def save_model(
    path: Path, side: int = 32, fit: str = "crop", model: str = "resnet9", tta: str = "mirror+shift"
) -> Path:
    """A weights file as a run saves it, of a network that answers differently for different images."""
    tricks = {**TRICKS, "test_time_augmentation": {"mode": tta}}
    torch.manual_seed(0)
    images = torch.tensor(some_images(64, side, side, 3))
    classifier = build_classifier(model, 3, 4, 20.0, make_tricks(tricks), images, side)
    network = {"model": model, "width": 4, "head_scale": 20.0, "tricks": tricks}
    facts = {"classes": CLASSES, "network": network, "images": {"side": side, "fit": fit, "pixel_max": "auto"}}
    save_weights(path, classifier.state_dict(), facts)
    return path
