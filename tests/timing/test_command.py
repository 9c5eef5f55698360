"""The guard against real processes: what must die dies, when it must, and nothing else is left."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import timing
from timing import ExitStatus, Guarded


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


STUBBORN = """
    import os, signal, subprocess, sys, time
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    same = subprocess.Popen(["sleep", "600"])
    own = subprocess.Popen(["sleep", "600"], start_new_session=True)
    from timing import send_event
    send_event({"pids": [os.getpid(), same.pid, own.pid]})
    STUCK
"""
STUCK = {
    "sleeps": "time.sleep(600)",
    "computes": "while True: pass",
    "in one C call": "pow(7, 10**9)",
    "is stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
}


@contextlib.contextmanager
def late() -> Iterator[list[float]]:
    """Seconds by which this process wakes too late, as on a busy machine, in each tenth of a second until the end."""
    seconds, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.is_set():
            begun = time.monotonic()
            time.sleep(0.1)
            seconds.append(time.monotonic() - begun - 0.1)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seconds
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("stuck", list(STUCK))
def test_the_deadline_kills_whatever_the_command_does_and_all_its_children(stuck: str) -> None:
    events: list[dict] = []
    with Guarded(python(STUBBORN.replace("STUCK", STUCK[stuck])), 1.5, on_event=events.append) as job, late() as own:
        exit_status = job.wait()
    assert exit_status.reason == "deadline"
    assert exit_status.returncode == -signal.SIGKILL
    assert 1.5 <= exit_status.wall_seconds < 2.5 + 5 * max(own)  # a kill is late by milliseconds
    assert not any(map(alive, events[0]["pids"]))


def test_a_daemon_left_behind_dies_with_the_command() -> None:
    events: list[dict] = []
    code = """
        import os, sys, time
        from timing import send_event
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:  # a daemon: its parent has ended, and it has a session of its own
                send_event({"pid": os.getpid()})
                time.sleep(600)
            os._exit(0)
        os.wait()
        time.sleep(0.3)
    """
    with Guarded(python(code), 30, on_event=events.append) as job:
        exit_status = job.wait()
    assert exit_status.reason == "exited"
    assert exit_status.wall_seconds < 20
    assert not alive(events[0]["pid"])


def test_exit_status_and_wall_time_are_the_commands() -> None:
    with Guarded(python("import sys, time; time.sleep(0.3); sys.exit(7)"), 60) as job:
        exit_status = job.wait()
    assert (exit_status.reason, exit_status.returncode) == ("exited", 7)
    assert 0.3 <= exit_status.wall_seconds < 20


def test_an_interrupt_is_a_sigterm_that_the_command_may_act_on() -> None:
    code = """
        import signal, sys, time
        from timing import send_event
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
        send_event({"ready": True})
        time.sleep(600)
    """
    with Guarded(python(code), 60, on_event=lambda event: job.interrupt()) as job:
        assert job.wait().reason == "interrupted"
    with Guarded(python(code), 60, on_event=lambda event: job.interrupt()) as job:
        assert job.wait().returncode == 5


def test_an_interrupt_that_is_ignored_becomes_a_kill_after_the_grace() -> None:
    events: list[dict] = []
    with Guarded(
        python(STUBBORN.replace("STUCK", "time.sleep(600)")),
        600,
        grace=0.5,
        on_event=lambda event: (events.append(event), job.interrupt()),
    ) as job:
        exit_status = job.wait()
    assert (exit_status.reason, exit_status.returncode) == ("interrupted", -signal.SIGKILL)
    assert not any(map(alive, events[0]["pids"]))


def test_leaving_the_context_kills_at_once() -> None:
    job = Guarded(python(STUBBORN.replace("STUCK", "time.sleep(600)")), 600)
    with contextlib.suppress(ZeroDivisionError), job:
        assert alive(job.pid)
        raise ZeroDivisionError
    assert not alive(job.pid)


PARENT = """
    import sys
    from timing import Guarded
    job = Guarded([sys.executable, "-c", sys.argv[1]], 600, on_event=lambda event: print(*event["pids"], flush=True))
    print(job._guard.pid, flush=True)
    job.wait()
"""


@pytest.mark.parametrize("victim", ["parent", "guard"])
def test_nothing_outlives_a_killed_parent_or_a_killed_guard(victim: str) -> None:
    command = [*python(PARENT), textwrap.dedent(STUBBORN.replace("STUCK", "time.sleep(600)"))]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    guard = int(parent.stdout.readline())
    worker, same, own = map(int, parent.stdout.readline().split())
    os.kill(parent.pid if victim == "parent" else guard, signal.SIGKILL)
    parent.wait(20)
    wait_until(lambda: not alive(guard) and not alive(worker) and not alive(same))
    if victim == "parent":  # the guard was there to find those that had left the group as well
        wait_until(lambda: not alive(own))
    elif alive(own):
        os.kill(own, signal.SIGKILL)
    parent.stdout.close()


def test_a_stopped_guard_does_not_stop_the_deadline() -> None:
    job = Guarded(python("import time; time.sleep(600)"), 1.0)
    os.kill(job._guard.pid, signal.SIGSTOP)
    with job:
        exit_status = job.wait()
    assert (exit_status.reason, exit_status.returncode) == ("deadline", -signal.SIGKILL)
    assert not alive(job.pid)
    assert job.wait() == exit_status


def test_an_event_too_long_to_be_sent_whole_is_refused() -> None:
    code = """
        from timing import send_event
        try:
            send_event({"text": "x" * 5000})
        except ValueError:
            send_event({"refused": True})
    """
    events: list[dict] = []
    with Guarded(python(code), 60, on_event=events.append) as job:
        job.wait()
    assert events == [{"refused": True}]


def test_a_reader_that_sleeps_does_not_block_the_command() -> None:
    code = """
        from timing import send_event
        for number in range(5000):
            send_event({"number": number, "filler": "x" * 200})
    """
    with Guarded(python(code), 60) as job:
        wait_until(lambda: not alive(job.pid))  # a megabyte of events, and nobody has read one yet
        exit_status = job.wait()
    assert exit_status == ExitStatus("exited", 0, exit_status.wall_seconds)


def test_a_command_that_does_not_exist_says_so() -> None:
    with pytest.raises(OSError, match="could not start"):
        Guarded(["/no/such/program"], 5)


def test_a_starter_that_dies_before_it_hears_of_the_start_leaves_nothing_behind(tmp_path: Path) -> None:
    """Nobody reads what the guard says; its input ends later, as when the starter is dead."""
    pids = tmp_path / "pids"
    code = f"""
        import os, subprocess, time
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        with open("{pids}.part", "w") as file:
            file.write(f"{{os.getpid()}} {{child.pid}}")
        os.rename("{pids}.part", "{pids}")
        time.sleep(600)
    """
    program = str(Path(timing.__file__).with_name("guard.py"))
    command = [sys.executable, "-I", "-S", program, "600", "0", "-1", *python(code)]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert guard.stdin is not None
    assert guard.stdout is not None
    guard.stdout.close()
    wait_until(pids.exists)
    guard.stdin.close()
    assert guard.wait(20) == 0
    assert not any(map(alive, map(int, pids.read_text().split())))
