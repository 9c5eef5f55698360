"""The record of finished runs: a file of JSON lines, to which lines are only added. A crash loses no finished run."""

import json
import os
from pathlib import Path
from typing import Any

from speedtrain.errors import UserError
from speedtrain.files import lock

Entry = dict[str, Any]


class Journal:
    """An open journal, which no other process can open meanwhile.

    Its first line is the header: what is judged, and how. Every other line is one attempt at a run, or an event: a
    submission that was added late, or withdrawn.

    Args:
        path: the file.
        create: header of a new journal; default: open an existing journal.

    Attributes:
        header: the first line.
        runs: the attempts, in order.

    Raises:
        UserError: the file is missing, empty or damaged, or another process has it open.
    """

    def __init__(self, path: Path, create: Entry | None = None) -> None:
        try:
            self._file = open(path, "a+b" if create is not None else "r+b")  # noqa: SIM115 (open as long as this object)
        except OSError as error:
            raise UserError(f"{path}: cannot be opened ({error.strerror}): not a judged board?") from None
        if not lock(self._file):
            raise UserError(f"{path}: another judge is at work on this board")
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1  # a power cut may leave a part of a line: that run is not finished
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
        self.runs: list[Entry] = [line for line in lines[1:] if "event" not in line]
        self._events: list[Entry] = [line for line in lines[1:] if "event" in line]

    def append(self, entry: Entry) -> None:
        """Writes a line. It is on the disk when this returns."""
        self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def add(self, run: Entry) -> None:
        """Writes a finished run."""
        self.append(run)
        self.runs.append(run)

    def is_finished(self, submission: str, run: int, regime: str = "", control_for: str = "") -> bool:
        """Whether a run is done. An earlier version repeated runs: an entry with the key `repeat` does not count."""
        wanted = (submission, run, regime, control_for)
        return any(_identity(entry) == wanted and not entry.get("repeat") for entry in self.runs)

    def add_event(self, event: Entry) -> None:
        """Writes an event: `event` (added or withdrawn), `submission`, and what belongs to it."""
        self.append(event)
        self._events.append(event)

    def events(self, kind: str) -> list[Entry]:
        """The events of a kind, in order."""
        return [event for event in self._events if event["event"] == kind]

    @property
    def withdrawn(self) -> dict[str, str]:
        """Name on the board → why it was withdrawn."""
        return {event["submission"]: event["reason"] for event in self.events("withdrawn")}

    @property
    def late(self) -> dict[str, Entry]:
        """Name on the board of each late submission → its event: `control`, `added`, `facts`."""
        return {event["submission"]: event for event in self.events("added")}

    @property
    def submissions(self) -> dict[str, Entry]:
        """Name on the board → facts of each submission, the late ones included."""
        late = {key: event["facts"] for key, event in self.late.items()}
        return {**self.header["submissions"], **late}

    @property
    def regimes(self) -> dict[str, Entry]:
        """Name → facts of each training set: `data`, `classes`, `num_test_images`, `test_images_sha256`, `side`.

        A board of schema 1 has one, whose facts are in the header itself.
        """
        regimes: dict[str, Entry] | None = self.header.get("regimes")
        if regimes is None:
            keys = ("data", "classes", "num_test_images", "test_images_sha256")
            return {"": {**{key: self.header[key] for key in keys}, "side": 32}}
        return regimes

    def close(self) -> None:
        """Lets other processes open the journal."""
        self._file.close()


def _identity(entry: Entry) -> tuple[str, int, str, str]:
    """Which run an attempt is of."""
    return entry["submission"], entry["run"], entry.get("regime", ""), entry.get("control_for", "")
