"""Decoded images, kept in the user's cache folder so that a file is decoded once.

One SQLite database: whole after a kill at any instant, and safe with several processes. An image is known by its file's
path, size, inode and times of change, by side and fit, and by VERSION. Hashes of content would mean reading every file
again, gigabytes of photographs. The time of the inode's change cannot be set back, so a file put in another's place
is noticed whatever its date says.

The cache never stops a run: where it cannot be read or written, images are decoded, and a note says so.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import numpy as np

VERSION = 1
"""Changes whenever `photograph` makes other pixels of the same file."""
VARIABLE = "SPEEDTRAIN_CACHE"
"""Environment variable with another folder for the cache, or `off`."""
LIMIT = 4 << 30
"""Bytes of pixels that are kept; the images unused for longest go first."""
SETTLED = 2.0
"""Seconds after which a file is taken to be written: some file systems count time in steps of two seconds."""
WAIT = 10.0
"""Seconds to wait for another process that writes."""
CHUNK = 500

_TABLE = "CREATE TABLE IF NOT EXISTS images (key BLOB PRIMARY KEY, used REAL, bytes INTEGER, pixels BLOB)"


def cache_folder() -> Path | None:
    """Where decoded images are kept; None where the cache is off."""
    named = os.environ.get(VARIABLE)
    if named == "off":
        return None
    if named:
        return Path(named)
    from platformdirs import user_cache_path

    return user_cache_path("speedtrain", appauthor=False)


def image_key(path: Path, side: int, how: str) -> bytes | None:
    """What a decoded image is known by; None where the file may still be being written, or is out of reach."""
    try:
        facts = path.stat()
        if time.time() - facts.st_ctime < SETTLED:
            return None
        real = os.path.realpath(path)
    except (OSError, ValueError):
        return None
    named = (VERSION, side, how, facts.st_size, facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns)
    return hashlib.sha256(os.fsencode(f"{named} ") + os.fsencode(real)).digest()


class ImageCache:
    """The decoded images of one side.

    Args:
        folder: where the database is; None for no cache.
        side: pixels of each side.

    Attributes:
        problem: why the cache could not be used, None while it can.
    """

    def __init__(self, folder: Path | None, side: int) -> None:
        self._path = folder and folder / "images.sqlite"
        self._side = side
        self.problem: str | None = None

    def read(self, keys: Sequence[bytes | None], images: np.ndarray) -> np.ndarray:
        """Copies those that are there to their places.

        Args:
            keys: of the N images; None for one that has none.
            images: uint8 [N, side, side, 3], changed in place.

        Returns:
            bool [N]: which were there.
        """
        found = np.zeros(len(keys), dtype=bool)
        places: dict[bytes, list[int]] = {}  # a file may be named twice
        for place, key in enumerate(keys):
            if key is not None:
                places.setdefault(key, []).append(place)
        known = list(places)

        def look_up(database: sqlite3.Connection) -> None:
            for first in range(0, len(known), CHUNK):
                some = known[first : first + CHUNK]
                marks = ",".join("?" * len(some))
                for key, pixels in database.execute(f"SELECT key, pixels FROM images WHERE key IN ({marks})", some):
                    if len(pixels) == self._side**2 * 3:
                        images[places[key]] = np.frombuffer(pixels, np.uint8).reshape(self._side, self._side, 3)
                        found[places[key]] = True
                database.execute(f"UPDATE images SET used = ? WHERE key IN ({marks})", [time.time(), *some])

        self._attempt(look_up)
        return found

    def write(self, images: Iterable[tuple[bytes, np.ndarray]]) -> None:
        """Keeps images, and drops those unused for longest where there are too many."""
        rows = [(key, time.time(), image.nbytes, image.data) for key, image in images]

        def add(database: sqlite3.Connection) -> None:
            database.executemany("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)", rows)
            excess = (database.execute("SELECT SUM(bytes) FROM images").fetchone()[0] or 0) - LIMIT
            oldest = []
            for key, size in database.execute("SELECT key, bytes FROM images ORDER BY used"):
                if excess <= 0:
                    break
                oldest.append((key,))
                excess -= size
            database.executemany("DELETE FROM images WHERE key = ?", oldest)

        if rows:
            self._attempt(add)

    def _attempt(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Does something in the database as one transaction. What goes wrong is kept in `problem`."""
        if self._path is None or self.problem is not None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=WAIT)) as database:
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = NORMAL")
                with database:
                    database.execute(_TABLE)
                    work(database)
        except (OSError, sqlite3.Error) as error:
            self.problem = f"{self._path}: {error}"
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                self._remove()  # damaged: the next run starts a new one

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                Path(f"{self._path}{suffix}").unlink()
