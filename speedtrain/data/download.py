"""Where data sets with a name lie on disk, and how they are downloaded."""

import http.client
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROBE_SECONDS = 3.0
STALL_SECONDS = 30.0


def data_roots(data_root: str | Path | None) -> list[Path]:
    """The folders in which a data set is looked for; it is downloaded to the first."""
    folders = (data_root, os.environ.get("SPEEDTRAIN_DATA"), "data")
    return [Path(folder) for folder in folders if folder]


@contextmanager
def no_dead_lines() -> Iterator[None]:
    """Ends a download that stalls: torchvision sets no limit, so that a dead line would hang for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def answers(url: str) -> bool:
    """Whether `url` can be had, decided within PROBE_SECONDS."""
    answers: list[int] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "speedtrain"})
        with (
            suppress(OSError, ValueError, http.client.HTTPException),
            urllib.request.urlopen(request, timeout=PROBE_SECONDS) as response,
        ):
            answers.append(response.status)

    # The timeout above holds for each single wait for the socket and not at all for the look-up of the
    # host's name, hence a thread that can be left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answers)
