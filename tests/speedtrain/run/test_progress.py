"""What the terminal says of the time left."""

import io
import time

import pytest
from rich.console import Console

from speedtrain.run.progress import Display, expected_end


def test_the_end_is_that_of_the_budget_or_of_the_epochs() -> None:
    assert expected_end(10.0, 12.0, 0.01, 600.0) == 600.0
    assert expected_end(10.0, 20.0, 0.2, 600.0) == pytest.approx(60.0)
    assert expected_end(10.0, 305.0, 0.5, 600.0) == 600.0


def test_the_bar_is_as_long_as_training(monkeypatch: pytest.MonkeyPatch) -> None:
    display, shown = Display(), io.StringIO()
    monkeypatch.setattr(display, "_console", Console(file=shown, force_terminal=True, width=120))
    step = {"epoch": 1.0, "loss": 2.0, "images_per_second": 100.0, "lr": 0.1, "side": 32}
    with display.running(600.0, time.monotonic()):
        for seconds, progress in ((10.0, 0.0), (20.0, 0.2), (30.0, 0.4)):
            display.step({**step, "seconds": seconds, "progress": progress})
    final = shown.getvalue().rpartition(" s left")[0].split()[-1]
    assert 50 < float(final) <= 60, "training ends after 60 s, and hardly one has passed"
