"""Runs from Python: `train` and `replay`."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speedtrain.config import resolve
from speedtrain.data.configured import load_configured, source_name
from speedtrain.errors import UserError
from speedtrain.model.load import read_run
from speedtrain.model.weights import load_weights
from speedtrain.run.checks_before_start import unused_options
from speedtrain.run.execute import execute
from speedtrain.run.loggers import Loggers
from speedtrain.run.mirrored_classes import notes_on_mirrors
from speedtrain.run.progress import Display
from speedtrain.run.result import Result
from speedtrain.training.step_log import Recorded


def train(
    budget: float | None = None,
    data: str | Path | tuple[np.ndarray, np.ndarray] | Any = None,
    test: str | Path | tuple[np.ndarray, np.ndarray] | Any = None,
    *,
    recipe: str | Path | None = None,
    tricks: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    with_tricks: Sequence[str] = (),
    without: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    quiet: bool | None = None,
    logger: Loggers = None,
    **options: Any,
) -> Result:
    """Trains a classifier inside a wall-clock budget and scores it: what `python -m speedtrain` does.

    Args:
        budget: seconds, from the start of the training process; default: the recipe's, if it has one.
        data: auto, cifar10, digits, torchvision:NAME, a path, (images uint8 [N, H, W, C], labels int [N]), a data
            frame, or a data set with a length and items (image, label); see `load_data`; default: the recipe's, or
            auto.
        test: test images, likewise; default: the data set's own test split, or a holdout.
        recipe: name, or path of a YAML file; default: auto, or finetune where training starts from given weights.
        tricks: exactly these tricks, by name, or name → hyperparameters; default: the recipe's.
        with_tricks, without: tricks to add to the recipe's, and to remove; default: none.
        settings: dotted hyperparameter → value, as in `{"sam.rho": 0.1, "lr": 0.2}`; default: none.
        out: run directory, new or empty; default: a new one in `runs/`.
        quiet: show no progress, only warnings, on standard error; default: yes, but no in a notebook.
        logger: a logger of Lightning, such as `WandbLogger()`, "tensorboard" for event files in the run directory, or a
            list of them; each gets the configuration, the metrics and the score; default: none.
        options: other keys of `Config`: per_class, seed, device, threads, model, …

    Returns:
        A dictionary: what `result.json` holds, and `out`, the run directory. A run that failed has the `status`
        `failed`, an `error` and None for `accuracy`. Its method `model()` loads the trained model.

    Raises:
        UserError: bad input, before the clock starts.
    """
    config = resolve(
        recipe=recipe,
        tricks=tricks,
        with_tricks=with_tricks,
        without=without,
        settings=settings,
        budget=budget,
        data=source_name(data),
        test=source_name(test),
        **options,
    )
    started = time.monotonic()
    display = Display(quiet)
    loaded = load_configured(config, data, test, display.reading)
    off_clock = {"data": time.monotonic() - started}
    messages = unused_options(config, {**options, **(settings or {})})
    messages += notes_on_mirrors(config, loaded.train, without)
    return execute(config, loaded, out, display, off_clock=off_clock, messages=messages, logger=logger)


def replay(run: Path, out: str | Path | None = None, *, quiet: bool = True) -> Result:
    """Trains again by a run's log of the clock, and compares the weights: `python -m speedtrain replay`.

    Args:
        run: a run directory.
        out: run directory for the replay, as for `train`.
        quiet: as for `train`.

    Returns:
        The new run's result, and `identical_weights`.

    Raises:
        UserError: not a run directory, its data has changed, or it was given as arrays.
    """
    config, facts = read_run(run)
    started = time.monotonic()
    display = Display(quiet)
    data = load_configured(config, progress=display.reading)
    if data.train.sha256() != facts["data_sha256"]:
        raise UserError(f"{run}: the training images in {config.data} are not those of the run any more")
    run = run.absolute()
    step_log, members = run / "clock.csv", facts.get("members", [])
    for log in [run / "members" / str(member["number"]) / "clock.csv" for member in members] or [step_log]:
        if not log.is_file():
            raise UserError(f"{run}: no log of the clock ({log.relative_to(run)}) to train by")
    off_clock = {"data": time.monotonic() - started}
    result = execute(config, data, out, display, off_clock=off_clock, replay=Recorded.of(step_log, facts))
    weights = Path(result["out"]) / "weights.safetensors"
    saved = load_weights(run / "weights.safetensors")[0]
    again = load_weights(weights)[0] if weights.exists() else {}
    same = saved.keys() == again.keys() and all(torch.equal(saved[name], again[name]) for name in saved)
    result["identical_weights"] = same
    return result
