"""The network as one program, from pixels to probabilities: what every format is made from."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speedtrain.model.ensemble import Member, mean_of_logarithms
from speedtrain.model.trained import TrainedModel
from speedtrain.network.classifier import Classifier
from speedtrain.network.folding import fold_norms

INPUT, OUTPUT = "images", "probabilities"
"""Names of the program's input and output."""


class Probabilities(nn.Module):
    """Images uint8 [N, side, side, 3] → probabilities float32 [N, K]: normalisation, networks and softmax in one.

    Args:
        members: the networks whose answers are averaged, each with the tricks whose action on predictions is part of
            the program.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        classifier = members[0].classifier
        self.members = members
        self.normalisation = Classifier(nn.Identity())
        self.normalisation.mean, self.normalisation.std = classifier.mean, classifier.std
        self.folded = nn.ModuleList(fold_norms(member.classifier.network) for member in members)

    def forward(self, images: Tensor) -> Tensor:
        batch = self.normalisation.normalise(images)
        pairs = zip(self.members, self.folded, strict=True)
        return mean_of_logarithms([member.answer(network)(batch) for member, network in pairs]).softmax(1)


def export_program(model: TrainedModel, augmented: bool) -> torch.export.ExportedProgram:
    """The model as a program of torch, for any number of images.

    Args:
        model: on the CPU.
        augmented: whether test-time augmentation is part of the program.
    """
    members = model.members if augmented else [Member(member.classifier) for member in model.members]
    network = Probabilities(members).eval()
    example = torch.zeros(2, model.side, model.side, 3, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("N", min=1)},))
