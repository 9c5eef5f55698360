"""Copies of weights while a real process writes them, honestly or not."""

import math
import os
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from speedtrain.judge import weight_copies
from speedtrain.judge.weight_copies import Copier, instants
from timing import Guarded

SIZE = 200_000


def copy_while(program: str, folder: Path, at: list[float], seconds: float = 20.0, most: int = 50 << 20) -> Copier:
    """Runs a program that writes `weights` in an empty folder, and copies meanwhile."""
    scratch = folder / "scratch"
    scratch.mkdir()
    script = folder / "program.py"
    script.write_text("import os, time\nstarted = time.monotonic()\n" + textwrap.dedent(program))
    with open(folder / "log", "wb") as log:
        job = Guarded([sys.executable, "-I", "-S", str(script)], seconds, grace=0, cwd=scratch, output=log)
        with job, Copier(job, scratch / "weights", folder / "copies", at, seconds, most) as copier:
            job.wait()
    assert (folder / "log").read_bytes() == b""
    return copier


def test_instants_are_even_on_the_logarithmic_scale() -> None:
    at = instants(600.0, 30.0, 20)
    on_axis = np.log1p(np.array(at) / 30) / math.log1p(600 / 30)
    np.testing.assert_allclose(on_axis, np.arange(1, 20) / 20)


def test_every_copy_is_whole_and_none_is_taken_twice(tmp_path: Path) -> None:
    """A file is renamed into place every tenth of a second, then no more."""
    copier = copy_while(
        f"""
        for number in range(8):
            with open("part", "wb") as file:
                file.write(bytes([number]) * {SIZE})
            os.replace("part", "weights")
            time.sleep(0.1)
        time.sleep(1)
        """,
        tmp_path,
        [0.05 * k for k in range(1, 40)],
    )
    contents = [copy.path.read_bytes() for copy in copier.copies]
    assert len(contents) > 3
    assert all(content == content[:1] * SIZE for content in contents)
    numbers = [content[0] for content in contents]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 7
    seconds = [copy.seconds for copy in copier.copies]
    assert seconds == sorted(seconds)
    assert copier.left_out == 0


def test_a_file_that_is_being_written_is_not_copied_until_it_is_closed(tmp_path: Path) -> None:
    copier = copy_while(
        f"""
        with open("weights", "wb") as file:
            for _ in range(10):
                file.write(bytes({SIZE // 10}))
                file.flush()
                time.sleep(0.1)
        time.sleep(1)
        """,
        tmp_path,
        [0.2 * k for k in range(1, 20)],
    )
    assert [copy.path.stat().st_size for copy in copier.copies] == [SIZE]
    assert copier.copies[0].seconds > 0.9


HOSTILE = {
    "a FIFO": "os.mkfifo('weights'); time.sleep(1)",
    "a link": "os.symlink('/etc/passwd', 'weights'); time.sleep(1)",
    "a folder": "os.mkdir('weights'); time.sleep(1)",
    "a terabyte of nothing": """
        with open("weights", "wb") as file:
            os.truncate(file.fileno(), 1 << 40)
        time.sleep(1)
    """,
    "an empty file": "open('weights', 'wb').close(); time.sleep(1)",
    "a file that never stops to change": """
        with open("weights", "wb") as file:
            while time.monotonic() - started < 0.6:
                os.pwrite(file.fileno(), b"x", 0)
            os.unlink("weights")  # before it is closed: a closed file is a whole one
            time.sleep(0.5)
    """,
}


@pytest.mark.parametrize("what", list(HOSTILE))
def test_what_is_no_whole_file_is_left_out_and_holds_nobody_up(what: str, tmp_path: Path) -> None:
    began = time.monotonic()
    copier = copy_while(HOSTILE[what], tmp_path, [0.1 * k for k in range(1, 15)], seconds=30.0)
    assert copier.copies == []
    assert copier.left_out > 0 or what == "a file that never stops to change"
    assert time.monotonic() - began < 20


def test_a_flood_of_renames_and_hard_links_costs_no_more_than_the_instants(tmp_path: Path) -> None:
    copier = copy_while(
        """
        open("a", "wb").write(b"a" * 1000)
        open("b", "wb").write(b"b" * 1000)
        while time.monotonic() - started < 1:
            for name in "ab":
                os.link(name, "next")
                os.rename("next", "weights")
        """,
        tmp_path,
        [0.2, 0.4, 0.6, 0.8],
    )
    assert 0 < len(copier.copies) <= 4
    assert all(copy.path.read_bytes() in (b"a" * 1000, b"b" * 1000) for copy in copier.copies)
    assert all(copy.path.stat().st_nlink == 1 for copy in copier.copies)


def test_a_fault_of_the_judges_own_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise MemoryError("no memory")

    monkeypatch.setattr(weight_copies, "_send", fail)
    with pytest.raises(MemoryError, match="no memory"):
        copy_while("open('weights', 'w').write('x')\ntime.sleep(0.5)", tmp_path, [0.2])


def test_copies_are_bounded_together(tmp_path: Path) -> None:
    copier = copy_while(
        f"""
        for number in range(5):
            with open("part", "wb") as file:
                file.write(os.urandom({SIZE}))
            os.replace("part", "weights")
            time.sleep(0.2)
        """,
        tmp_path,
        [0.1, 0.3, 0.5, 0.7, 0.9],
        most=int(2.5 * SIZE),
    )
    assert len(copier.copies) == 2
    assert copier.left_out >= 1
    assert sum(os.path.getsize(copy.path) for copy in copier.copies) <= 2.5 * SIZE
