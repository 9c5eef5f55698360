"""Whether a network answers alike when its norms are folded, and when its weights are loaded into another."""

import torch
from torch import Tensor, nn

from speedtrain.network.classifier import Classifier
from speedtrain.network.folding import fold_norms


def folded_and_loaded_again(classifier: Classifier, again: Classifier, pixels: Tensor) -> nn.Module:
    """The network without norms, after checking it, and after checking `again` with the same weights.

    Args:
        pixels: uint8 [N, H, W, 3].
    """
    images = classifier.normalise(pixels)
    with torch.no_grad():
        classifier(images)  # running statistics of something
        network = classifier.network.eval()
        answer = network(images)
        folded = fold_norms(network)
        torch.testing.assert_close(folded(images), answer, rtol=1e-3, atol=1e-4)
        again.load_state_dict(classifier.state_dict())
        assert torch.equal(again.network.eval()(images), answer)
    return folded
