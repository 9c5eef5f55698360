"""At the end of training: whether the averaged weights still fit the training images as well as the last ones do."""

from speedtrain.training.lightning_module import Training
from tricks import State

BATCHES = 2
"""Of training images that both are compared on, each as large as a step's."""
SECONDS_IN_STEPS = 2.0
"""How long the comparison takes, in steps: four forward passes, where a step has a forward and a backward one."""
LEAST_STEPS = 200
"""Of a training that is compared. In a shorter one the comparison would cost more than a hundredth of the time, and
the average holds few steps."""
WORSE = 0.2
"""The last weights are kept where the average's loss is so much higher. The average blurs old and new weights; where
training took a leap, such as after a spike of the loss, no network lies between them. Seen on handwritten digits:
72.7 % by the average, in a run whose loss had leapt from 0.9 to 1.9 and come back."""


def worth_comparing(num_steps: int) -> bool:
    """Whether a training of so many steps is compared at its end."""
    return num_steps >= LEAST_STEPS


def averaged_or_last(training: Training, averaged: State) -> tuple[State, str | None]:
    """The averaged weights, or the last ones where the average is clearly worse on training images.

    The images are the same in every run on the same data and batch size, so a replay decides alike.

    Args:
        training: at its end.
        averaged: the averaged weights, under the names of the classifier's state.

    Returns:
        The weights to keep; and a message for the user where these are the last ones, otherwise None.
    """
    last = dict(training.classifier.state_dict())
    loss_averaged, loss_last = (training.loss_on_training_images(state, BATCHES) for state in (averaged, last))
    if not loss_averaged > loss_last + WORSE:
        return averaged, None
    message = (
        f"the averaged weights fit the training images worse than the last ones (loss {loss_averaged:.2f} and "
        f"{loss_last:.2f}); the last ones are kept"
    )
    return last, message
