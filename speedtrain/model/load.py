"""From a run's directory, or its weights file, to the trained classifier."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speedtrain.config import Config, resolve
from speedtrain.data.photograph import Fit
from speedtrain.errors import UserError
from speedtrain.model.weights import load_facts, load_weights
from speedtrain.network.classifier import Classifier, build_classifier, make_tricks
from tricks import Trick


@dataclass(frozen=True)
class TrainedModel:
    """A trained classifier.

    Attributes:
        classifier: the network with its weights, in evaluation mode.
        tricks: of its training; some of them act on predictions.
        classes: names of the classes, in the order of the outputs.
        side: of the images that the network sees, in pixels. Default: 32.
        fit: what becomes of an image that is not square, as in `Config`. Default: crop.
        pixel_max: white in images of integers wider than uint8; None where it trained on none.
    """

    classifier: Classifier
    tricks: Sequence[Trick]
    classes: tuple[str, ...]
    side: int = 32
    fit: Fit = "crop"
    pixel_max: int | None = None


def load_model(weights: Path) -> TrainedModel:
    """Loads a classifier from its weights file, whose header holds the network, the tricks and the classes.

    Raises:
        UserError: the file cannot be read, or is not of a run.
    """
    state, stored = load_weights(weights)
    facts: dict[str, Any] = stored
    classes, network = facts.get("classes"), facts.get("network")
    if not isinstance(classes, list) or not isinstance(network, dict):
        raise UserError(f"{weights}: not the weights of a run")
    try:
        tricks = make_tricks(network["tricks"])
        width = 0 if network["width"] == "auto" else network["width"]  # a timm model has none
        images = facts.get("images", {"side": 32, "fit": "crop"})  # runs before there was a choice
        side, fit, pixel_max = images["side"], images["fit"], images.get("pixel_max", "auto")
        classifier = build_classifier(network["model"], len(classes), width, network["head_scale"], tricks, None, side)
        classifier.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise UserError(f"{weights}: its header does not describe the network that its weights are of") from None
    return TrainedModel(
        classifier.eval(), tricks, tuple(classes), side, fit, None if pixel_max == "auto" else pixel_max
    )


def read_run(run: Path) -> tuple[Config, dict[str, Any]]:
    """The configuration of a run that has saved something, and the facts stored with its weights.

    The run may have been killed at any instant after that.

    Raises:
        UserError: not a run directory, or no weights of a run in it.
    """
    for name in ("config.yaml", "weights.safetensors"):
        if not (run / name).is_file():
            raise UserError(f"{run}: not a run directory with something saved in it (there is no {name})")
    facts: dict[str, Any] = load_facts(run / "weights.safetensors")
    if not {"step", "classes", "data_sha256"} <= facts.keys():
        raise UserError(f"{run / 'weights.safetensors'}: not the weights of a run")
    return resolve(recipe=run / "config.yaml"), facts
