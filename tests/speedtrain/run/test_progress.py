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
