"""Ctrl-C, SIGTERM and a closed terminal while a run is on."""

import signal
import threading
from types import FrameType
from typing import Any

from timing import Guarded

GRACE = 20.0
"""Seconds that an interrupted run may take to finish its step and save."""


class Interruption:
    """Handles SIGINT, SIGTERM and SIGHUP: the first signal ends the run early, the second one kills it.

    Attributes:
        signal: number of the first signal received; None so far.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._process: Guarded | None = None
        self._previous: dict[int, Any] = {}

    def watch(self, process: Guarded | None) -> None:
        """From now on a signal interrupts this process; a signal that came before interrupts it now."""
        self._process = process
        if process is not None and self.signal is not None:
            process.interrupt()

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if number == signal.SIGHUP:  # a terminal that closes may send several, itself and by its shell
                return
            raise KeyboardInterrupt(number)
        self.signal = number
        if self._process is not None:
            self._process.interrupt()
