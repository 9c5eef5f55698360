"""What has been judged, in an append-only file of JSON lines: a crash or a power cut loses no finished run."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from speedtrain.errors import UserError

Entry = dict[str, Any]


class Journal:
    """An open journal. Its first line is the header: what is judged, and how; each other line is one run.

    Args:
        path: the file; opened for this process alone.
        create: with this header, if it is new.

    Raises:
        UserError: there is none, it is damaged, or another process has it open.
    """

    def __init__(self, path: Path, create: Entry | None = None) -> None:
        try:
            self._file = open(path, "a+b" if create is not None else "r+b")  # noqa: SIM115 (as long as this lives)
        except OSError as error:
            raise UserError(f"{path}: cannot be opened ({error.strerror}): not a judged board?") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{path}: another judge is at work on this board") from None
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1  # a power cut may leave the last line in part: that run is not finished
        try:
            lines = [json.loads(line) for line in content[:whole].splitlines()]
        except ValueError:
            raise UserError(f"{path}: damaged (a line of it is not JSON)") from None
        self._file.truncate(whole)
        self._file.seek(whole)
        if not lines:
            if create is None:
                raise UserError(f"{path}: empty; nothing was judged here")
            self.append(create)
            lines = [create]
        self.header: Entry = lines[0]
        self.runs: list[Entry] = lines[1:]

    def append(self, entry: Entry) -> None:
        """Writes a line; when this returns it is on the disk."""
        self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def add(self, run: Entry) -> None:
        """Writes a finished run."""
        self.append(run)
        self.runs.append(run)

    def attempts(self, submission: str, run: int) -> list[Entry]:
        """Of one run, those that were finished; the last one counts unless it is to be repeated."""
        return [entry for entry in self.runs if (entry["submission"], entry["run"]) == (submission, run)]

    def close(self) -> None:
        self._file.close()
