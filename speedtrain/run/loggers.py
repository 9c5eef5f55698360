"""Loggers of Lightning that follow a run. This process calls them, the one that waits: they cost training nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from speedtrain.config import Config
from speedtrain.errors import UserError
from speedtrain.run.progress import Display
from speedtrain.run.result import Result

Loggers = str | Logger | Sequence[str | Logger] | None
"""What a caller may give: loggers of Lightning, or names of `NAMES`."""

NAMES = ("tensorboard",)
"""Loggers that have a name here."""

_OF_A_STEP = ("loss", "lr", "images_per_second", "progress", "epoch", "side", "seconds")
_SCORES = ("accuracy", "balanced_accuracy", "macro_f1")


class RunLoggers:
    """What a run tells its loggers. One that fails is left alone from then on: the run does not depend on it.

    Args:
        given: loggers, or names.
        display: shows why one failed.

    Raises:
        UserError: not a logger, no such name, or its package is not installed.
    """

    def __init__(self, given: Loggers, display: Display) -> None:
        self._loggers: list[Logger] = []
        self._display = display
        self._tensorboard = False
        for each in given if isinstance(given, list | tuple) else [] if given is None else [given]:
            if isinstance(each, Logger):
                self._loggers.append(each)
            elif each == "tensorboard":
                if find_spec("tensorboard") is None:
                    raise UserError('--log tensorboard: not installed; pip install "speedtrain[tensorboard]"')
                self._tensorboard = True
            else:
                known = ", ".join(NAMES)
                raise UserError(f"--log {each!r}: there is {known}; from Python, give any logger of Lightning")

    @contextmanager
    def follow(self, config: Config, run: Path) -> Iterator[None]:
        """While a run is on: begins with its configuration, and closes the loggers however it ends.

        TensorBoard writes its event files to the run's directory.
        """
        if self._tensorboard:
            self._loggers.append(TensorBoardLogger(run, name="", version=""))
        values = asdict(config)
        self._call(lambda logger: logger.log_hyperparams(values))
        status = "failed"
        try:
            yield
            status = "success"
        finally:
            self._call(lambda logger: logger.finalize(status))

    def step(self, event: Mapping[str, Any]) -> None:
        """Logs how far training is: a step event of the worker."""
        self._log({name: float(event[name]) for name in _OF_A_STEP}, event["step"])

    def end(self, result: Result) -> None:
        """Logs the score, and accuracy against time where that was measured."""
        for row in result.get("learning_curve", [])[:-1]:
            self._log({"test/accuracy": row["accuracy"]}, row["step"])
        if scores := {f"test/{name}": float(result[name]) for name in _SCORES if result.get(name) is not None}:
            self._log(scores, result["steps"])

    def _log(self, metrics: dict[str, float], step: int) -> None:
        self._call(lambda logger: logger.log_metrics(metrics, step=step))

    def _call(self, call: Callable[[Logger], object]) -> None:
        for logger in list(self._loggers):
            try:
                call(logger)
            except Exception as error:  # whatever a stranger's logger raises
                self._loggers.remove(logger)
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                self._display.warn(f"warning: {type(logger).__name__} failed and gets no more of this run ({reason})")
