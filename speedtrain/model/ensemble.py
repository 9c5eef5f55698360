"""The members of a model: networks that were trained apart, and whose answers are averaged. Most models have one."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from speedtrain.network.classifier import Classifier
from tricks import Forward, Trick


class Member(NamedTuple):
    """One network of a model.

    Attributes:
        classifier: in evaluation mode, on the device that predicts.
        tricks: of its training; some of them act on predictions.
    """

    classifier: Classifier
    tricks: Sequence[Trick] = ()

    def answer(self, network: nn.Module) -> Forward:
        """Normalised images [B, 3, H, W] → logits float32 [B, K], with the tricks that act on predictions.

        Args:
            network: the classifier's, or a copy of it with its norms folded.
        """

        def logits(batch: Tensor) -> Tensor:
            answer: Tensor = network(batch)
            return answer.float()

        forward: Forward = logits
        for trick in self.tricks:
            forward = trick.prediction(forward)
        return forward


def mean_of_logarithms(logits: Sequence[Tensor]) -> Tensor:
    """The members' logits [B, K] each → logits [B, K] of all: the mean of the logarithms of their probabilities.

    A class that one member holds impossible stays impossible. So a sure answer counts for more than in the mean of
    the probabilities.
    """
    if len(logits) == 1:
        return logits[0]
    return torch.stack([each.log_softmax(1) for each in logits]).mean(0)


class Ensemble(nn.Module):
    """The members' networks as one: normalised images [B, 3, H, W] → logits [B, K]."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        return mean_of_logarithms([member(images) for member in self.members])
