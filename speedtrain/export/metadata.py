"""What is written into an exported file beside the program."""

from typing import Any

from speedtrain import __version__
from speedtrain.model.trained import TrainedModel


def metadata(model: TrainedModel, augmented: bool) -> dict[str, Any]:
    """What goes with the program: JSON values of all that a user of the file has to know."""
    return {
        **model.facts,
        "classes": list(model.classes),
        "side": model.side,
        "fit": model.fit,
        "augmented": augmented,
        "speedtrain": __version__,
    }
