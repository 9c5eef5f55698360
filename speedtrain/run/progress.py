"""What the terminal shows while a run is on, and at its end."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from speedtrain.data.source import uneven

LINES = 20
"""Plain lines per run, where there is no terminal to draw a bar on."""
LINE_SECONDS = 5.0
"""Between two plain lines on images that are read or predicted."""
CHANGE_SECONDS = 0.1
"""Between two states of such a line on a terminal, which takes as long to write as a small image takes to read."""


class _ClockBar(BarColumn):
    """A bar that moves with the clock, also while the worker sends nothing."""

    def __init__(self, started: float) -> None:
        super().__init__(30)
        self._started = started

    def render(self, task: Task) -> ProgressBar:
        task.completed = time.monotonic() - self._started
        return super().render(task)


class _TimeLeft(ProgressColumn):
    def __init__(self, started: float) -> None:
        super().__init__()
        self._started = started

    def render(self, task: Task) -> Text:
        left = (task.total or 0.0) - (time.monotonic() - self._started)
        return Text(f"{max(0.0, left):4.0f} s left ")


def expected_end(first: tuple[float, float], now: float, progress: float, budget: float) -> float:
    """When training will end, by how far it has come: with the budget, or with its epochs before that.

    Args:
        first: seconds and progress of an early step.
        now, budget: seconds of the same clock.
        progress: of training now, 0 to 1.
    """
    since, done = first[0], progress - first[1]
    if done < 0.05:  # too early to tell
        return budget
    return min(budget, now + (1 - progress) * (now - since) / done)


class _SafeStream:
    """A stream that may break, as that of a closed terminal does, without an error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            return self._stream.write(text)
        return 0

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this program."""
    ipython: Any = sys.modules.get("IPython")
    return "ipykernel" in sys.modules and ipython is not None and ipython.get_ipython() is not None


def _console(stream: TextIO | None) -> Console:
    file: Any = stream and _SafeStream(stream)
    # the output of a notebook's cell does what a terminal does; Rich's own way needs another package there
    terminal = True if in_notebook() else None
    return Console(file=file, highlight=False, soft_wrap=True, force_jupyter=False, force_terminal=terminal)


class Display:
    """The progress of the budget on standard error: a bar on a terminal and in a notebook, plain lines elsewhere.

    Args:
        quiet: show only warnings. Default: no. None: yes, unless in a notebook.
    """

    def __init__(self, quiet: bool | None = False) -> None:
        self.quiet = not in_notebook() if quiet is None else quiet
        self._console = _console(sys.stderr)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._seconds = self._next_line = 0.0
        self._steps: int | None = None
        self._first: tuple[float, float] | None = None

    def info(self, line: str) -> None:
        """Shows one line, unless quiet."""
        if not self.quiet:
            self._console.print(line, markup=False)

    def warn(self, line: str) -> None:
        """Shows one line, also when quiet."""
        self._console.print(line, markup=False)

    @property
    def reading(self) -> Callable[[int, int], None]:
        """`counting` of images that are read."""
        return self.counting("reading")

    def counting(self, what: str) -> Callable[[int, int], None]:
        """Shows how many images are done, and the time left: a line that changes on a terminal, else one every
        LINE_SECONDS. What it returns is to be called with both numbers, from the first image on or, for other images,
        again from the first."""
        started = shown = time.monotonic()
        first = before = 0

        def count(done: int, total: int) -> None:
            nonlocal started, shown, first, before
            now = time.monotonic()
            if done <= max(before, 1):  # what was done before the first image is no part of its time
                started, first = now, done
            before = done
            on_terminal = self._console.is_terminal
            last = on_terminal and done == total
            if not last and now - shown < (CHANGE_SECONDS if on_terminal else LINE_SECONDS):
                return
            shown = now
            left = (now - started) * (total - done) / max(done - first, 1)
            text = f"{what}: {done} of {total} images" + (f", {left:.0f} s left" if now - started > 1 else "")
            if not on_terminal:
                self.info(text)
            elif not self.quiet:
                self._console.print(text.ljust(60), end="\n" if last else "\r", markup=False)

        return count

    @contextmanager
    def running(self, seconds: float, started: float, steps: int | None = None) -> Iterator[None]:
        """While the worker, started at `started` by the monotonic clock, uses its `seconds`; or, in a replay, its
        `steps`."""
        self._seconds, self._steps, self._next_line, self._first = seconds, steps, 0.0, None
        if self.quiet or not self._console.is_terminal:
            yield
            return
        columns = (_ClockBar(started), _TimeLeft(started), TextColumn("{task.description}", markup=False))
        with Progress(*columns, console=self._console, transient=True, refresh_per_second=4) as self._bar:
            self._task = self._bar.add_task("starting", total=seconds)
            yield
        self._bar = None

    def step(self, event: Mapping[str, Any]) -> None:
        """Shows how far training is: a step event of the worker."""
        seconds = event["seconds"]
        if self._first is None:
            self._first = seconds, event["progress"]
        text = (
            f"epoch {event['epoch']:.1f}  loss {event['loss']:.3f}  {event['images_per_second']:.0f} images/s  "
            f"lr {event['lr']:.4f}  side {event['side']}"
        )
        if self._bar is not None:
            end = expected_end(self._first, seconds, event["progress"], self._seconds)
            self._bar.update(self._task, description=text, total=end)
        elif seconds >= self._next_line:
            self._next_line = seconds + self._seconds / LINES
            limit = f" of {self._seconds:g}" if self._steps is None else f", step {event['step']} of {self._steps}"
            self.info(f"{seconds:7.1f} s{limit}  {text}")

    def result(self, result: Mapping[str, Any], run: Path) -> None:
        """Shows the end: accuracy, phases, files."""
        if result.get("error") or result["accuracy"] is None:
            self.warn(f"{result['status']}: {result.get('error', 'nothing was trained')}")
        if self.quiet or in_notebook():  # there the result shows itself
            return
        out = _console(sys.stdout)
        if result["accuracy"] is not None:
            low, high = result["accuracy_interval"]
            on = f"{result['num_test_images']} {result['accuracy_on']} images of {result['test_data']['name']}"
            out.print(
                f"\naccuracy {result['accuracy']:.2%}  (95 % interval {low:.2%} to {high:.2%}; {on})",
                markup=False,
            )
            counts = result["test_data"]["class_counts"]
            trained = result["data"]["class_counts"]
            if uneven(counts) or uneven(trained):
                share = result["test_data"]["largest_class_share"]
                line = f"balanced accuracy {result['balanced_accuracy']:.2%}  ({share:.1%} are of the largest class)"
                out.print(line, markup=False)
                worst = result["worst_class"]
                out.print(f"worst class {worst['class']}: {worst['accuracy']:.2%}", markup=False)
            if agreement := result.get("agreement_with_annotators"):
                each = ", ".join("–" if share is None else f"{share:.1%}" for share in agreement["each"])
                out.print(f"agreement with each annotator: {each}", markup=False)
            if expected := result.get("expected"):
                between = f"{expected['low']:.1%} to {expected['high']:.1%}"
                line = f"expected {expected['accuracy']:.1%} ({between}) on images like CIFAR-10's"
                out.print(line, markup=False)
            plan = result["plan"]
            trained = f"{result['status']}: {result['epochs']:.1f} epochs, {result['images_per_second']:.0f} images/s"
            side = f", {plan['side']}×{plan['side']} images" if plan.get("side", 32) != 32 else ""
            width = f", width {plan['width']}" if plan.get("width") else ""
            if members := [each for each in result.get("members", []) if each["accuracy"] is not None]:
                widths = " and ".join(str(each["width"] or each["model"]) for each in members)
                width = f", {len(members)} networks of width {widths}"
            rollbacks = f", {result['rollbacks']} rollbacks" if result["rollbacks"] else ""
            out.print(f"{trained}{side}{width}, {plan.get('precision', '')}{rollbacks}", markup=False)
            if members:
                alone = ", ".join(f"{each['accuracy']:.2%} ({each['own']})" for each in members)
                out.print(f"each alone: {alone}", markup=False)
        limit = "by the log" if "replay_of" in result else f"of {result['budget_seconds']:g}"
        table = Table("phase", title=f"{result['wall_seconds']:.2f} s {limit}", title_justify="left")
        table.add_column("seconds", justify="right")
        table.add_column("share", justify="right")
        for name, seconds in result["phases"].items():
            table.add_row(name, f"{seconds:.2f}", f"{seconds / max(result['wall_seconds'], 1e-9):.1%}")
        out.print(table)
        names = ", ".join(sorted(file.name for file in run.iterdir()))
        out.print(f"files in {run}: {names}", markup=False)
