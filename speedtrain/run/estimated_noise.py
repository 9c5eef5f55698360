"""The noise of the labels, as `forward_correction` needs it, from the labels of several people."""

from speedtrain.config import Config
from speedtrain.data import Images
from speedtrain.data.annotators import DEFAULT, estimate_transition
from speedtrain.errors import UserError

NOISE = "forward_correction.noise"


def estimate_noise(config: Config, train: Images, *, keep: bool = False) -> None:
    """Gives `config` the noise of the labels, where `forward_correction` is to know it from the annotators.

    Args:
        config: gets a `tricks` of its own, so that configurations that share one do not change.
        train: the training images.
        keep: keep a matrix that is there already, as a replay does. Default: no, it may be of other labels.

    Raises:
        UserError: no image has several labels, or the labels of training have another noise than the annotators'.
    """
    values = config.tricks.get("forward_correction", {})
    way = config.labels or DEFAULT
    if values.get("noise") == "confident" and train.votes is not None and way in (DEFAULT, "soft"):
        raise UserError(f"{NOISE}: confident is for one label an image; use annotators with --labels {way}")
    if values.get("noise") != "annotators" or (keep and values.get("matrix")):
        return
    if train.votes is None or not ((train.votes >= 0).sum(axis=1) > 1).any():
        raise UserError(f"{NOISE}: annotators needs images with several labels, and {train.name} has none")
    if way in ("majority", "em"):
        raise UserError(f"{NOISE}: annotators is not the noise of --labels {way}; use {DEFAULT}")
    transition = estimate_transition(train.votes, len(train.classes))
    config.tricks = {**config.tricks, "forward_correction": {**values, "matrix": transition.tolist()}}
