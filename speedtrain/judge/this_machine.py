"""A judging on this machine alone: checked before anything is run, and measured as it goes."""

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType

from speedtrain.judge import machine_speed, sandbox_check
from speedtrain.judge.settings import Settings
from speedtrain.judge.turns import Turns


class ThisMachine:
    """This machine, one run at a time. Used in a `with` block, as `Cluster` is.

    Args:
        settings: the rules of the judging.
        secret: option → path that no submission may read; `--out`, the folder of the board, is among them.

    Raises:
        UserError: this machine has not what the settings promise, or the sandbox does not work here.
    """

    def __init__(self, settings: Settings, secret: Mapping[str, Path]) -> None:
        self._settings = settings
        settings.check(secret["--out"])
        sandbox_check.check(settings.sandbox, settings.limits(60), secret)

    @cached_property
    def _reference(self) -> tuple[float | None, float]:
        """The speed that drift is measured from, and its variation; no speed where any drift is allowed."""
        if not math.isfinite(self._settings.drift):
            return None, 0.0
        return machine_speed.reference_speed(self._settings.limits(60).cpus)

    @property
    def speed(self) -> float | None:
        """GFLOP/s of the cores that a submission has; None where any drift is allowed."""
        return self._reference[0]

    def prepare(self, turns: Turns) -> None:
        """Tries the packages that submissions may use, and warns of other programs.

        Raises:
            UserError: a package cannot be imported.
        """
        tried = sandbox_check.check_packages(self._settings.sandbox)
        turns.package_files = tried.package_files
        turns.report(tried.in_words())
        variation = self._reference[1]
        if variation > self._settings.drift:
            turns.report(
                f"warning: this machine's speed varies by {variation:.0%} already: something else is running on it"
            )

    def run_all(self, turns: Turns) -> None:
        """Runs what the journal does not hold yet; see `Turns.run_all`."""
        turns.run_all()

    def __enter__(self) -> "ThisMachine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass
