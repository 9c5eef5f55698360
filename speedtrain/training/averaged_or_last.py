"""At the end of training: whether the last weights are clearly better than the averaged ones."""

from speedtrain.training.lightning_module import Training
from tricks import State

IMAGES = 128
"""Training images that both answer."""
LEAST_STEPS = 200
"""Of a training that is compared: the average of a shorter one holds few steps."""
MOST_OF_BUDGET = 0.01
"""Time for a comparison that would take a larger share of the budget is not reserved."""
LEAST_SECONDS_ON_GPU = 0.5
"""What the comparison is expected to take there at least: steps take milliseconds, but new shapes and modes take longer
at first. An estimate; it was not measured."""
BETTER = 0.2
"""The last weights are kept where they answer so many more of the images right, as a share. An average blurs old and
new weights. Where the loss has leapt in between, these are of different networks, and no network lies between them.
Seen on handwritten digits: 72.7 % of the test images right by the average, 98.9 % by the last weights, after the loss
had leapt from 0.9 to 1.9 and come back. Not less: while training learns wrong labels by heart, the average is behind
too, and better for it. With half of the labels drawn at random, that was 10 points at most in four runs."""


def seconds_to_compare(training: Training, step: float) -> float:
    """How long the comparison takes at most: two forward passes of `IMAGES`.

    Args:
        training: as it is now.
        step: seconds of one of its steps. It has a backward pass as well, but may have a faster convolution than a
            forward pass alone.
    """
    seconds = 2 * max(1.0, IMAGES / training.last_batch_size) * step
    return max(seconds, LEAST_SECONDS_ON_GPU) if training.device.type == "cuda" else seconds


def reason_for_last(training: Training, averaged: State) -> str | None:
    """A message for the user where the last weights should be kept in place of the averaged ones, otherwise None.

    Args:
        training: at its end.
        averaged: the averaged weights, under the names of the classifier's state.
    """
    last = dict(training.classifier.state_dict())
    by_average, by_last = (training.share_right(weights, IMAGES) for weights in (averaged, last))
    if by_last - by_average < BETTER:
        return None
    return (
        f"the averaged weights answer {by_average:.0%} of some training images right, and the last ones {by_last:.0%}: "
        "the last ones are kept"
    )
