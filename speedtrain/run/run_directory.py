"""The directory of a run."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from speedtrain.config import Config
from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.run.progress import Display


def new_run_directory(out: str | Path | None) -> Path:
    """An empty directory that can be written to, made if need be.

    Args:
        out: its path; None: a new one in `runs/`, named by the time.

    Raises:
        UserError: it exists and is not empty, or cannot be written.
    """
    if out == "":
        raise UserError("--out is empty; name a folder")
    run = Path(out) if out is not None else Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    number = 1
    try:
        while True:
            try:
                run.mkdir(parents=True, exist_ok=out is not None)
                break
            except FileExistsError:
                if out is not None:
                    raise
                number += 1
                run = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{number}"
        if any(run.iterdir()):
            raise UserError(f"--out {run}: exists and is not empty; name a new folder")
        write_atomic(run / ".writable", b"")
        (run / ".writable").unlink()
    except OSError as error:
        raise UserError(f"--out {run}: cannot be written ({error.strerror})") from None
    return run.absolute()


def write_config(run: Path, config: Config) -> None:
    """Writes `config.yaml`."""
    write_atomic(run / "config.yaml", config.as_yaml().encode())


def remove_partial_saves(run: Path) -> None:
    """Removes what a kill left of a save that was under way."""
    for part in run.rglob(".weights.safetensors.*"):
        part.unlink()


@contextlib.contextmanager
def may_fail(display: Display) -> Iterator[None]:
    """Inside, a file that cannot be written is a warning, whatever the reason: the other files are written still."""
    try:
        yield
    except OSError as error:
        display.warn(f"could not write {error.filename or 'a file of the run'} ({error.strerror})")
    except Exception as error:
        display.warn(" ".join(f"could not write a file of the run ({type(error).__name__}: {error})".split()))
