"""Takes over the files that a submission has written. Every file is checked before it is read."""

import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import IO

import numpy as np

from speedtrain.judge.scratch import remove_mounts

MOST_DIMENSIONS, MOST_SIZE = 4, 9_999_999
"""Of a shape that is told."""


class BadOutput(Exception):
    """An output is not what the interface asks for; the message says why."""


def open_output(scratch: Path, name: str, most: int) -> IO[bytes]:
    """Opens a plain file in a scratch folder for reading.

    Args:
        scratch: the folder.
        name: name of the file, without a folder.
        most: largest size allowed, in bytes.

    Raises:
        BadOutput: the file is missing or too large, or is a link, a pipe, a folder or a device.
    """
    try:
        # follow no link, and wait for no pipe
        descriptor = os.open(scratch / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BadOutput(f"no file {name} was written") from None
    except OSError as error:
        link = (scratch / name).is_symlink()
        raise BadOutput(f"{name} is {'a symbolic link' if link else f'unreadable ({error.strerror})'}") from None
    found = os.fstat(descriptor)
    problem = None
    if not stat.S_ISREG(found.st_mode):
        problem = f"{name} is not a plain file"
    elif found.st_size > most:
        problem = f"{name} has {found.st_size} bytes; at most {most} were expected"
    if problem:
        os.close(descriptor)
        raise BadOutput(problem)
    return os.fdopen(descriptor, "rb")


def take(scratch: Path, name: str, to: Path, most: int) -> None:
    """Copies an output to the file `to`.

    Args:
        scratch, name, most: as in `open_output`.
        to: file to write.

    Raises:
        BadOutput: as in `open_output`, or the output is empty.
    """
    with open_output(scratch, name, most) as source, open(to, "wb") as target:
        shutil.copyfileobj(source, target)
    if not to.stat().st_size:
        raise BadOutput(f"{name} is empty")
    to.chmod(0o644)


def read_predictions(scratch: Path, name: str, count: int, num_classes: int) -> np.ndarray:
    """Reads class indices int64 [count] from an .npy file, without unpickling anything.

    Args:
        scratch, name: as in `open_output`.
        count: number of images.
        num_classes: number of classes.

    Raises:
        BadOutput: the file holds anything else.
    """
    with open_output(scratch, name, 8 * count + 4096) as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, _, dtype = read_header(file)
        except Exception:  # numpy raises many kinds of errors for a hostile header
            raise BadOutput(f"{name} is not an .npy file") from None
        # checked before the data are read: a shape may declare any size, and an object array holds pickles
        if dtype != np.dtype("<i8"):
            raise BadOutput(f"{name} holds {_in_words(dtype)}, not int64")
        if shape != (count,):
            raise BadOutput(f"{name} has shape {_in_words(shape)}, not ({count},): one class index per image")
        content = file.read(8 * count)
    if len(content) != 8 * count:
        raise BadOutput(f"{name} is cut short")
    predicted = np.frombuffer(content, "<i8").astype(np.int64)
    if predicted.min() < 0 or predicted.max() >= num_classes:
        raise BadOutput(f"{name} holds class {predicted.min()} to {predicted.max()}, not 0 to {num_classes - 1}")
    return predicted


def _in_words(value: np.dtype | tuple[int, ...]) -> str:
    """A type or a shape; in few words where it could hold a message: its program has seen the secret images."""
    if isinstance(value, np.dtype):
        return value.name if value.isbuiltin == 1 else "another type"
    if len(value) > MOST_DIMENSIONS:
        return f"with {len(value)} dimensions"
    return str(value) if all(size <= MOST_SIZE for size in value) else "with a number too long to be written"


def clear(folder: Path) -> None:
    """Removes a folder, even if a submission has locked it or nested thousands of folders in it."""
    if not folder.exists():
        return
    remove_mounts(folder)
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "u+rwx", str(folder)], capture_output=True, check=False)
    subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)
