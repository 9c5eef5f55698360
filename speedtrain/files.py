"""Files that a reader, or a power cut, finds whole; and files that one process holds at a time."""

import io
import os
from pathlib import Path
from typing import IO, Any

import numpy as np

from speedtrain.errors import UserError


def lock(file: IO[Any]) -> bool:
    """Locks an open file for this process, until it is closed or the process ends, also by a kill.

    Returns:
        Whether it could be locked: not where another process holds it.

    Raises:
        UserError: this system has no such locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows, or a Python built without it
        raise UserError(
            "this command needs file locks (fcntl), which this system has not; use Linux or macOS"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_atomic(path: Path, content: bytes) -> None:
    """Replaces a file's content in one step: a reader finds the old content or the new, never a part of it.

    Raises:
        OSError: it could not be written; the old content is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Writes arrays as an `.npz`, by `write_atomic`."""
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    write_atomic(path, content.getvalue())


class GrowingFile:
    """A text file that is added to. What a full disk cut off is written again when there is room.

    Args:
        path: the file.
        header: its first text.
    """

    def __init__(self, path: Path, header: str) -> None:
        self._path, self._pending, self._size = path, header, 0

    def add(self, text: str) -> None:
        """Adds text; it is on the disk after the next `flush`."""
        self._pending += text

    def flush(self) -> None:
        """Writes what was added.

        Raises:
            OSError: it could not be written; the next `flush` tries again.
        """
        content = self._pending.encode()
        with open(self._path, "r+b" if self._path.exists() else "wb") as file:
            file.truncate(self._size)
            file.seek(self._size)
            file.write(content)
        self._size, self._pending = self._size + len(content), ""
