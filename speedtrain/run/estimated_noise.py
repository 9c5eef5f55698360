"""The noise of the labels, as `forward_correction` needs it, from the labels of several people."""

from speedtrain.config import Config
from speedtrain.data import Images
from speedtrain.data.annotators import DEFAULT, estimate_transition
from speedtrain.errors import UserError

NOISE = "forward_correction.noise"


def estimate_noise(config: Config, train: Images) -> None:
    """Writes into `config` the noise of the labels, where `forward_correction` is to know it from the annotators.

    Raises:
        UserError: no image has several labels, or the labels of training have another noise than the annotators'.
    """
    values = config.tricks.get("forward_correction", {})
    way = config.labels or DEFAULT
    if values.get("noise") == "confident" and train.targets is not None:
        raise UserError(f"{NOISE}: confident is for one label an image; use annotators with --labels {way}")
    if values.get("noise") != "annotators":
        return
    if train.votes is None or not ((train.votes >= 0).sum(axis=1) > 1).any():
        raise UserError(f"{NOISE}: annotators needs images with several labels, and {train.name} has none")
    if way in ("majority", "em"):
        raise UserError(f"{NOISE}: annotators is not the noise of --labels {way}; use {DEFAULT}")
    transition = estimate_transition(train.votes, len(train.classes))
    config.tricks["forward_correction"] = {**values, "matrix": transition.tolist()}
