"""The budget counts from the start of the process, and the ledger adds up."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from timing import Budget, Ledger, Pacer, RecordedPacer, process_start


def test_process_start_is_when_the_process_started_not_when_it_asks() -> None:
    code = "import time; time.sleep(0.5); from timing import process_start; print(repr(process_start()))"
    before = time.monotonic()
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    # Linux gives the start in ticks of 10 ms
    assert before - 0.02 <= float(printed) < before + 0.4


def test_process_start_does_not_move() -> None:
    first = process_start()
    time.sleep(0.05)
    assert process_start() == pytest.approx(first, abs=0.002)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_budget_is_a_positive_number(seconds: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Budget(seconds, 0.0)


def test_elapsed_and_remaining_make_up_the_budget() -> None:
    budget = Budget(10, time.monotonic() - 4)
    assert budget.elapsed() == pytest.approx(4, abs=0.1)
    assert budget.elapsed() + budget.remaining() == pytest.approx(10, abs=0.001)


def test_ledger_counts_every_second_once() -> None:
    started = time.monotonic()
    ledger = Ledger(started)
    time.sleep(0.02)
    with ledger.phase("train"):
        time.sleep(0.05)
        with ledger.phase("save"):
            time.sleep(0.03)
        time.sleep(0.05)
    time.sleep(0.01)
    with ledger.phase("train"):
        time.sleep(0.02)
    phases = ledger.phases()
    wall = time.monotonic() - started
    assert list(phases) == ["start", "train", "save", "other"]
    assert sum(phases.values()) == pytest.approx(wall, abs=0.001)
    assert phases["train"] >= 0.12
    assert 0.03 <= phases["save"] < 0.12


def test_a_phase_ended_by_an_error_is_counted() -> None:
    ledger = Ledger(time.monotonic())
    with contextlib.suppress(RuntimeError), ledger.phase("train"):
        time.sleep(0.02)
        raise RuntimeError
    time.sleep(0.01)
    assert 0.02 <= ledger.phases()["train"] < 0.02 + ledger.phases()["other"] + 0.02


class Clock:
    """Stands still but for the steps that a test takes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        patch.setattr(time, "monotonic", lambda: self.now)

    def pace(self, pacer: Pacer, seconds: Callable[[int], float]) -> list[float]:
        """Takes steps until the pacer grants no more; returns the progress of each."""
        progress: list[float] = []
        while (granted := pacer.next()) is not None:
            progress.append(granted)
            self.now += seconds(len(progress))
        return progress


def test_progress_runs_from_0_to_1_in_time_whatever_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    budget = Budget(1.2, clock.now)
    progress = clock.pace(Pacer(budget, reserve=0.2), lambda step: 0.01 if step <= 40 else 0.04)
    assert progress[0] == 0.0
    assert progress == sorted(progress)
    assert progress[-1] > 0.9  # the last step begins where one more would not fit
    assert 0.2 <= budget.remaining() < 0.2 + 0.04
    assert progress[-1] - progress[-2] == pytest.approx(4 * (progress[2] - progress[1]))  # each is worth its time


def test_one_hiccup_does_not_end_a_run_early(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    pacer = Pacer(Budget(4.0, clock.now), reserve=0.2)
    progress = clock.pace(pacer, lambda step: 1.6 if step == 100 else 0.01)
    assert progress[-1] > 0.99


def test_no_step_is_granted_after_the_end() -> None:
    assert Pacer(Budget(1.0, time.monotonic() - 0.9), reserve=0.2).next() is None


def test_training_ends_when_it_is_done_by_another_measure_that_is_ahead_of_the_clock() -> None:
    steps = iter([0.0, 0.0, 0.0, 0.5, 0.75, 0.99, 1.0])
    pacer = Pacer(Budget(1000.0, time.monotonic()), done=lambda: next(steps))
    begin, by_time, more, *by_measure, end = [pacer.next() for _ in range(7)]
    assert 0.0 == begin <= by_time <= more < 0.01
    assert (by_measure, end) == ([0.5, 0.75, 0.99], None)


def test_recorded_pacer_repeats_the_record() -> None:
    pacer = RecordedPacer([0.0, 0.25, 0.5])
    assert [pacer.next() for _ in range(4)] == [0.0, 0.25, 0.5, None]
