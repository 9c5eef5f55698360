"""What a step prints: taken through a pipe, bounded, and made plain text.

A pipe tells a program nothing of the file behind it: neither whose run it is, nor which. Nor can the program reach the
file.
"""

import os
import select
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

CHUNK = 1 << 16
END_WAIT = 0.05
"""Seconds between two looks for the end of what is printed, once the step is over."""
LONGEST_DRAIN = 5.0
"""Seconds for what is left in the pipe then."""


class PrintedLog:
    """Writes what arrives in a pipe to a file, for as long as its `with` block lasts.

    Args:
        file: the file to write.
        most: bytes that are kept.

    Attributes:
        output: the end of the pipe that the step prints to. To be closed when the step has its own copy.
        overflowed: whether more was printed than is kept.
    """

    def __init__(self, file: Path, most: int) -> None:
        self._file, self._left = file.open("wb", buffering=0), most
        self._pipe, output = os.pipe()
        self.output: IO[bytes] = os.fdopen(output, "wb")
        self.overflowed = False
        self._error: OSError | None = None
        os.set_blocking(self._pipe, False)
        self._over, self._end = threading.Event(), 0.0
        self._thread = threading.Thread(target=self._take_all, daemon=True)

    def _take_all(self) -> None:
        while not self._over.is_set() or time.monotonic() < self._end:
            ready = select.select([self._pipe], [], [], END_WAIT)[0]
            if not ready:
                if self._over.is_set():  # whoever might still hold the other end has not printed any more
                    return
                continue
            try:
                chunk = os.read(self._pipe, CHUNK)
            except BlockingIOError:  # the step has opened the pipe too, and was quicker
                continue
            if not chunk:
                return
            self.overflowed |= len(chunk) > self._left
            try:
                self._file.write(chunk[: self._left])
            except OSError as error:  # told when the step is over; it must not wait for a full pipe meanwhile
                self._error = error
            self._left = max(0, self._left - len(chunk))

    def __enter__(self) -> "PrintedLog":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self.output.close()
        self._end = time.monotonic() + LONGEST_DRAIN
        self._over.set()
        self._thread.join()
        os.close(self._pipe)
        self._file.close()
        if self._error is not None and error is None:
            raise self._error


def make_plain(log: Path) -> None:
    """Replaces the control characters of a log: they could drive the reader's terminal, or reverse its text."""
    log.write_bytes(plain_text(log.read_bytes()).encode())


def plain_text(content: bytes) -> str:
    """A stranger's text without control characters; tabs and ends of lines stay."""
    text = content.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c if c in "\n\t" or c.isprintable() else "?" for c in text)


def quoted(words: str) -> str:
    """A stranger's words as such: between marks that they cannot close."""
    return f"“{words.replace('“', chr(34)).replace('”', chr(34))}”"


def last_line(log: Path) -> str:
    """The last line of a log, printable and cut to size; empty if there is none."""
    lines = _last_lines(log)
    return lines[-1] if lines else ""


def last_line_with(words: Sequence[str], log: Path) -> str:
    """The last line among the last 4 KiB of a log that holds one of the words; empty if there is none."""
    return next((line for line in reversed(_last_lines(log)) if any(word in line for word in words)), "")


def _last_lines(log: Path) -> list[str]:
    """The lines in the last 4 KiB of a log, printable and cut to size."""
    if not log.exists():
        return []
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return ["".join(c for c in line if c.isprintable())[:200] for line in lines]
