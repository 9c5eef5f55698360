"""`python -m speedtrain predict`: images → a file of predictions."""

import os
from pathlib import Path

import torch

from speedtrain.data.image_files import Progress, unreadable_images
from speedtrain.errors import UserError
from speedtrain.machine import available_cores
from speedtrain.model.load import load
from speedtrain.model.predictions import Predictions


def predict_to_file(
    run: Path,
    images: Path,
    out: Path,
    *,
    exact: bool = False,
    each_class: bool = False,
    progress: Progress | None = None,
) -> Predictions:
    """Predicts images with a run's weights, also where the run was killed, and writes the predictions.

    It predicts on a GPU if there is one, whatever the run trained on. For what it writes, see `write_predictions`. It
    goes on without files that cannot be read.

    Args:
        run: the run's directory, or its weights file.
        images: an `.npz`, a folder, or an image file.
        out: an `.npz` or a `.csv`; its old content is replaced.
        exact, progress: as for `TrainedModel.predict`.
        each_class: whether a `.csv` has a column per class. Default: no.

    Raises:
        UserError: not a run, no image there that can be read, or `out` cannot be written.
    """
    suffix = out.suffix.lower()
    if suffix not in (".npz", ".csv"):
        raise UserError(f"--out {out}: predictions are written as .npz or .csv; name it so")
    if each_class and suffix != ".csv":
        raise UserError(f"--each-class: an .npz has the probabilities of all classes; it changes a .csv, not {out}")
    if not os.path.isdir(out.parent):
        raise UserError(f"--out {out}: there is no folder {out.parent}; make it")
    model = load(run)
    torch.set_num_threads(available_cores())
    predictions = model.predict_all(images, exact=exact, progress=progress)
    if not len(predictions):
        raise UserError(f"{images}: it holds no images")
    if predictions.problems and len(predictions.problems) == len(predictions):
        problems = {images / str(predictions.files[place]): why for place, why in predictions.problems.items()}
        raise unreadable_images(problems, "mend or remove what is damaged")
    try:
        predictions.save(out, each_class=each_class)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    return predictions
