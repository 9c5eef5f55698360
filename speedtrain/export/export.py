"""A run → a file for other programs, once it has been run beside the model that it came from."""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speedtrain.data.configured import load_configured
from speedtrain.data.image_files import Progress
from speedtrain.errors import UserError
from speedtrain.export.formats import Run, need_onnx, run_onnx, run_torch, write_onnx, write_torch
from speedtrain.export.metadata import metadata
from speedtrain.export.page import find_runtime, write_page
from speedtrain.export.program import export_program
from speedtrain.machine import available_cores
from speedtrain.model.load import load, read_run
from speedtrain.model.trained import TrainedModel

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "html": ".html"}
"""Format → suffix of its files."""
BOUND = 1e-4
"""The largest difference of a probability that passes."""
TRIED = 500
"""Images that a file is tried on, at the most."""
BATCH = 50
"""Images that are computed at once, at the most."""
TURNS, SECONDS = 5, 1.0
"""How often, and for how long, the file and the model are timed in turns, at the least."""


@dataclass(frozen=True)
class Proof:
    """The file beside the model, on the same images, one image being the same computation in both.

    Attributes:
        images: how many.
        difference: the largest one of a probability.
        labels_differ: how many images get another class.
        batch_size: images that were computed at once.
        milliseconds: per image, of the file in its own runtime; the least of several measurements, since other
            programs may want the cores too.
        own_milliseconds: the same of the model in full precision.
    """

    images: int
    difference: float
    labels_differ: int
    batch_size: int
    milliseconds: float
    own_milliseconds: float

    @property
    def passes(self) -> bool:
        """Whether the file stands for the model."""
        return self.difference <= BOUND and not self.labels_differ


def export(
    run: str | Path,
    format: str,
    out: str | Path | None = None,
    *,
    augmented: bool = False,
    images: str | Path | None = None,
    runtime: str | Path | None = None,
    progress: Progress | None = None,
) -> tuple[Path, Proof]:
    """Writes a run's model as a file for other programs: `python -m speedtrain export`.

    The file takes images uint8 [N, side, side, 3], any number of them, and gives probabilities [N, K]. It is written
    only if it answers as the model does, on real images.

    Args:
        run: the run's directory, or its weights file.
        format: `onnx`; `torch`, a program of `torch.export`; or `html`, a page with the ONNX file and a runtime in it.
        out: file to write; its old content is replaced. Default: `model` with the format's suffix, beside the weights.
        augmented: whether test-time augmentation is part of it: as accurate as the run's score, several times the
            work. Default: no.
        images: what to try it on, in any form that `TrainedModel.predict` takes. Default: the run's test images.
        runtime: of a page, the folder of the npm package `onnxruntime-web`. Default: in `node_modules` here or above.
        progress: is called while test images are read. Default: none.

    Returns:
        The file, and how it compares with the model.

    Raises:
        UserError: not a run, no images to try it on, a package is missing, the file cannot be written, or it does not
            answer as the model does.
    """
    given, format = format, format.lower()
    if format not in SUFFIXES:
        raise UserError(f"--format {given}: there is {', '.join(SUFFIXES)}")
    run = Path(run)
    model = load(run, device="cpu")
    folder = run if run.is_dir() else run.parent
    path = Path(out) if out is not None else folder / f"model{SUFFIXES[format]}"
    if path.suffix != SUFFIXES[format]:
        raise UserError(f"--out {out}: a file of format {format} is called {SUFFIXES[format]}; name it so")
    if format != "torch":
        need_onnx()
    web = find_runtime(runtime) if format == "html" else None
    tried = _images(model, folder, images, progress)
    torch.set_num_threads(available_cores())
    try:
        program, facts = export_program(model, augmented), metadata(model, augmented)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as scratch:
            written = Path(scratch, path.name)
            if format == "torch":
                write_torch(program, written, facts)
                proof = prove(model, run_torch(written), tried, augmented)
            else:
                onnx = written.with_suffix(".onnx")
                write_onnx(program, onnx, facts)
                proof = prove(model, run_onnx(onnx), tried, augmented)
                if web is not None:
                    write_page(written, model, onnx.read_bytes(), web)
            if not proof.passes:
                classes = f"{proof.labels_differ} of {proof.images} images get another class"
                what = f"{classes}, probabilities differ by up to {proof.difference:.1e}"
                raise UserError(f"{path}: not written, since it does not answer as the model does: {what}")
            os.replace(written, path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    except Exception as error:  # torch's exporters do not know every network of timm, and raise what they like
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: torch cannot export this network ({type(error).__name__}: {reason})") from None
    return path, proof


def prove(model: TrainedModel, run: Run, images: np.ndarray, augmented: bool) -> Proof:
    """Runs a file beside the model.

    Args:
        model: in full precision.
        run: runs the file.
        images: uint8 [N, side, side, 3].
        augmented: whether the file has test-time augmentation in it.
    """

    def own(some: np.ndarray) -> np.ndarray:
        return model.predict_all(some, augmented=augmented, exact=True).probabilities

    theirs, ours = _answers(run, images), _answers(own, images)  # they make kernels and take memory, too
    batch = images[:BATCH]
    turns: list[tuple[float, float]] = []
    started = time.monotonic()
    while len(turns) < TURNS or time.monotonic() - started < SECONDS:
        turns.append((_milliseconds(run, batch), _milliseconds(own, batch)))
    return Proof(
        images=len(images),
        difference=float(np.abs(theirs - ours).max()),
        labels_differ=int((theirs.argmax(1) != ours.argmax(1)).sum()),
        batch_size=len(batch),
        milliseconds=min(theirs for theirs, _ in turns),
        own_milliseconds=min(ours for _, ours in turns),
    )


def _answers(run: Run, images: np.ndarray) -> np.ndarray:
    return np.concatenate([run(images[first : first + BATCH]) for first in range(0, len(images), BATCH)])


def _milliseconds(run: Run, batch: np.ndarray) -> float:
    """Milliseconds per image."""
    started = time.monotonic()
    run(batch)
    return 1000 * (time.monotonic() - started) / len(batch)


def _images(model: TrainedModel, run: Path, images: Any, progress: Progress | None) -> np.ndarray:
    """Images to try a file on, uint8 [N, side, side, 3], evenly spaced among those that there are."""
    if images is not None:
        found = model.read(images)
    elif not (run / "config.yaml").is_file():
        raise UserError(f"{run}: no config.yaml in it that names test images; give --images to try the file on")
    else:
        try:
            config, _ = read_run(run)
            found = load_configured(config, progress=progress).test.images
        except UserError as error:
            raise UserError(f"{error} (or give --images to try the file on)") from None
    if not len(found):
        raise UserError("--images: there are none to try the file on")
    return found[np.unique(np.linspace(0, len(found) - 1, TRIED).astype(int))]
