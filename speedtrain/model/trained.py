"""The trained classifier, for a person to use."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from speedtrain.data.image_files import Progress, Reading, unreadable_images
from speedtrain.data.photograph import Fit
from speedtrain.data.stream import ImageStream, Part, open_images
from speedtrain.model.ensemble import Ensemble, Member
from speedtrain.model.inference import Predictor
from speedtrain.model.predictions import Prediction, Predictions


class TrainedModel:
    """A trained classifier: `load(run)` gives it.

    It may be used from several threads at once.

    Args:
        members: the networks with their weights, on the device that predicts: one, or several whose answers are
            averaged.
        classes: names of the classes, in the order of the outputs.
        reading: how its training images were brought to their side.
        facts: what is stored with the weights.

    Attributes:
        members: the networks, each with its tricks.
        network: normalised images float [N, 3, side, side] → logits [N, K]; without test-time augmentation.
        classes: names of the K classes.
        side: of the images that the network sees, in pixels.
        fit: what becomes of an image that is not square: crop, pad or squash.
        device: where it predicts.
    """

    def __init__(
        self,
        members: Sequence[Member],
        classes: tuple[str, ...],
        reading: Reading,
        facts: Mapping[str, Any],
    ) -> None:
        assert reading.side is not None
        self.members, self.classes, self.facts = tuple(members), classes, facts
        self.side: int = reading.side
        self.fit: Fit = reading.fit
        self.pixel_max = reading.pixel_max
        self.device = members[0].classifier.mean.device
        self._reading = reading
        networks = [member.classifier.network for member in members]
        self.network: nn.Module = networks[0] if len(networks) == 1 else Ensemble(networks).eval()

    def preprocess(self, images: Any) -> Tensor:
        """Images → what the network takes: float [N, 3, side, side], normalised, on the model's device.

        Args:
            images: one or several, as for `predict`.

        Raises:
            UserError: as for `predict`, or a file cannot be read.
        """
        return self.members[0].classifier.normalise(torch.tensor(self.read(images), device=self.device))

    def read(self, images: Any) -> np.ndarray:
        """Images → uint8 [N, side, side, 3], as training saw them; arguments and errors as for `preprocess`."""
        parts, done = [np.empty((0, self.side, self.side, 3), np.uint8)], 0
        problems: dict[str, str] = {}
        for part in open_images(images, self._reading).parts:
            problems |= _named_problems(part, done)
            parts.append(part.images)
            done += len(part.names)
        _refuse(problems)
        return np.concatenate(parts)

    def predict(
        self,
        images: Any,
        *,
        augmented: bool = True,
        exact: bool = False,
        progress: Progress | None = None,
    ) -> Prediction | Predictions:
        """Says what images show, exactly as the score of the run was made.

        An image is brought to the network's side as the training images were: turned upright, fitted, normalised.
        Memory does not grow with the number of images, except for their probabilities.

        Args:
            images: one image: the path of a file, a PIL image, or an array uint8 [H, W, C] or [H, W]. Or several: the
                path of a folder (all images in it and below it) or an `.npz`, an array [N, H, W, C] or [N, H, W], or
                anything that gives single images one after another, such as a list, a column of a data frame or a
                generator. C is 1 or 3.
            augmented: by the average over several views of each image, if the run was scored so. Default: True.
            exact: in full precision only. Default: False: in the fastest precision of this device, where it agrees with
                full precision on a sample; see `speedtrain.model.inference`.
            progress: is called with the number of images predicted and their total, where that is known. Default: none.

        Returns:
            A `Prediction` of one image, `Predictions` of several. Files among several that cannot be read, and gaps
            (None, NaN, NA), are marked there, and have no prediction.

        Raises:
            UserError: `images` is none of these, or it is one file that cannot be read.
        """
        stream = open_images(images, self._reading)
        predictions = self._predict(stream, augmented, exact, progress)
        return predictions[0] if stream.single else predictions

    def predict_all(
        self,
        images: Any,
        *,
        augmented: bool = True,
        exact: bool = False,
        progress: Progress | None = None,
    ) -> Predictions:
        """As `predict`, but `Predictions` of one image too."""
        return self._predict(open_images(images, self._reading), augmented, exact, progress)

    def _predict(self, stream: ImageStream, augmented: bool, exact: bool, progress: Progress | None) -> Predictions:
        predictor = Predictor(self.members, self.device, augmented=augmented, exact=exact)
        rows, files, problems = [self._no_answers(0)], list[str | None](), dict[int, str]()
        for part in stream.parts:
            if stream.single:
                _refuse(_named_problems(part))
            done = len(files)
            answers = self._no_answers(len(part.names))
            answers[:, part.readable] = self._probabilities(predictor, part, stream, done, progress)
            rows.append(answers)
            files += part.names
            problems |= {done + place: why for place, why in part.problems.items()}
            if progress and part.problems:
                progress(len(files), stream.total or len(files))
        answer, *of_members = np.concatenate(rows, 1)
        return Predictions(answer, self.classes, files, problems, predictor.precision, tuple(of_members))

    def _probabilities(
        self, predictor: Predictor, part: Part, stream: ImageStream, done: int, progress: Progress | None
    ) -> np.ndarray:
        """Of the readable images of a part, as `Predictor.with_members`. `done` images came before it."""
        rows = [self._no_answers(0)]
        predictor.choose(part.images)
        for images in _slices(part.images, 4 * predictor.batch_size(self.side)):
            rows.append(predictor.with_members(images))
            done += len(images)
            if progress:
                progress(done, stream.total or done)
        return np.concatenate(rows, 1)

    def _no_answers(self, number: int) -> np.ndarray:
        """For so many images, in the form of `Predictor.with_members`."""
        answers = 1 + (len(self.members) if len(self.members) > 1 else 0)
        return np.full((answers, number, len(self.classes)), np.nan, np.float32)


def _slices(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(images), size):
        yield images[first : first + size]


def _named_problems(part: Part, done: int = 0) -> dict[str, str]:
    """Name of an image that could not be read → why. `done` images came before the part."""
    return {part.names[place] or f"image {done + place}": why for place, why in part.problems.items()}


def _refuse(problems: Mapping[str, str]) -> None:
    """Raises UserError where there are images that could not be read."""
    if problems:
        raise unreadable_images(problems, "mend or leave out what is damaged")
