"""Predictions: class probabilities from a trained classifier."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from speedtrain.data.load import read_images
from speedtrain.data.photographs import Progress
from speedtrain.device import find_device
from speedtrain.errors import UserError
from speedtrain.machine import available_cores
from speedtrain.model.load import TrainedModel, load_model, read_run
from speedtrain.model.predictions import write_predictions
from tricks import Forward

BATCH_SIZE = 500


@torch.inference_mode()
def predict(model: TrainedModel, images: np.ndarray, device: torch.device) -> np.ndarray:
    """Class probabilities float32 [N, K] of images uint8 [N, H, W, 3], in full precision."""
    classifier = model.classifier.to(device)
    forward: Forward = classifier
    for trick in model.tricks:
        forward = trick.prediction(forward)
    parts = []
    for first in range(0, len(images), BATCH_SIZE):
        batch = torch.tensor(images[first : first + BATCH_SIZE], device=device)
        parts.append(forward(classifier.normalise(batch)).softmax(1).cpu())
    return torch.cat(parts).numpy()


def predict_run(
    run: Path, images: Path, out: Path, progress: Progress | None = None
) -> tuple[np.ndarray, Mapping[str, str]]:
    """Predicts images with a run's weights, also where the run was killed: `python -m speedtrain predict`.

    It predicts in full precision on a GPU if there is one, whatever the run trained on. For what it writes, see
    `write_predictions`. It goes on without files that cannot be read.

    Args:
        run: the run's directory.
        images: an `.npz`, a folder, or an image file.
        out: an `.npz` or a `.csv`; its old content is replaced.
        progress: is called with the number of image files decoded and their total. Default: none.

    Returns:
        The probabilities, and the files that cannot be read → why.

    Raises:
        UserError: not a run directory, no images there, or `out` cannot be written.
    """
    read_run(run)
    if out.suffix not in (".npz", ".csv"):
        raise UserError(f"--out {out}: predictions are written as .npz or .csv; name it so")
    torch.set_num_threads(available_cores())
    model = load_model(run / "weights.safetensors")
    device = torch.device(find_device()[0])
    read = read_images(images, side=model.side, fit=model.fit, pixel_max=model.pixel_max, progress=progress)
    probabilities = predict(model, read.images, device)
    try:
        write_predictions(out, probabilities, model.classes, read.files, unreadable=tuple(read.problems))
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    return probabilities, read.problems
