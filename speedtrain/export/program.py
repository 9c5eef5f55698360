"""The network as one program, from pixels to probabilities: what every format is made from."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speedtrain import __version__
from speedtrain.model.trained import TrainedModel
from speedtrain.network.classifier import Classifier
from speedtrain.network.folding import fold_norms
from tricks import Forward, Trick

INPUT, OUTPUT = "images", "probabilities"
"""Names of the program's input and output."""


class Probabilities(nn.Module):
    """Images uint8 [N, side, side, 3] → probabilities float32 [N, K]: normalisation, network and softmax in one.

    Args:
        classifier: in evaluation mode.
        tricks: whose action on predictions is part of the program.
    """

    def __init__(self, classifier: Classifier, tricks: Sequence[Trick]) -> None:
        super().__init__()
        self.tricks = tricks
        self.folded = Classifier(fold_norms(classifier.network))
        self.folded.mean, self.folded.std = classifier.mean, classifier.std

    def forward(self, images: Tensor) -> Tensor:
        forward: Forward = self.folded
        for trick in self.tricks:
            forward = trick.prediction(forward)
        return forward(self.folded.normalise(images)).softmax(1)


def export_program(model: TrainedModel, augmented: bool) -> torch.export.ExportedProgram:
    """The model as a program of torch, for any number of images.

    Args:
        model: on the CPU.
        augmented: whether test-time augmentation is part of the program.
    """
    network = Probabilities(model.classifier, model.tricks if augmented else ()).eval()
    example = torch.zeros(2, model.side, model.side, 3, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("N", min=1)},))


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
