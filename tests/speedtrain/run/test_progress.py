"""What the terminal says of the time left."""

import io
import time

import pytest
from rich.console import Console

from speedtrain.run.progress import Display, expected_end


def test_the_end_is_that_of_the_budget_or_of_the_epochs() -> None:
    begun = 10.5, 0.01
    assert expected_end(begun, 12.0, 0.05, 600.0) == 600.0
    assert expected_end(begun, 20.0, 0.2, 600.0) == pytest.approx(60.0)
    for now in range(11, 59):  # of a run that ends with its budget, whatever its first step was
        assert expected_end((8.5, 0.5 / 52), now, (now - 8) / 52, 60.0) == pytest.approx(60.0)


def test_the_bar_is_as_long_as_training(monkeypatch: pytest.MonkeyPatch) -> None:
    display, shown = Display(), io.StringIO()
    monkeypatch.setattr(
        display, "_console", Console(file=shown, force_terminal=True, width=120, _environ={"TERM": "xterm"})
    )
    step = {"epoch": 1.0, "loss": 2.0, "images_per_second": 100.0, "lr": 0.1, "side": 32}
    with display.running(600.0, time.monotonic()):
        for seconds, progress in ((10.5, 0.01), (20.0, 0.2), (30.0, 0.4)):
            display.step({**step, "seconds": seconds, "progress": progress})
    final = shown.getvalue().rpartition(" s left")[0].split()[-1]
    assert 50 < float(final) <= 60, "training ends after 60 s, and hardly one has passed"


@pytest.mark.parametrize("terminal", [True, False])
def test_images_are_counted_now_and_then_with_the_time_left(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    display, shown, now = Display(), io.StringIO(), 100.0
    monkeypatch.setattr(
        display,
        "_console",
        Console(file=shown, force_terminal=terminal, highlight=False, width=120, _environ={"TERM": "xterm"}),
    )
    monkeypatch.setattr("speedtrain.run.progress.time.monotonic", lambda: now)
    count = display.reading
    for total, seconds in ((1000, 0.0005), (100, 1.0)):  # quick ones, then others that take longer
        for done in range(1, total + 1):
            now += seconds
            count(done, total)
    lines = shown.getvalue().replace("\r", "\n").split("\n")
    counted = [line.strip() for line in lines if line.strip()]
    assert all(line.startswith("reading: ") for line in counted)
    quick = [line for line in counted if "of 1000" in line]
    assert len(quick) <= (6 if terminal else 0)
    assert len(counted) - len(quick) == (100 if terminal else 20)
    assert "reading: 50 of 100 images, 50 s left" in counted
    if terminal:
        assert quick[-1] == "reading: 1000 of 1000 images"
