"""Taking over what a submission has written. Whatever it is, it is looked at before it is read."""

import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import IO

import numpy as np


class BadOutput(Exception):
    """What was written is not what was asked for; the message says why."""


def open_output(scratch: Path, name: str, most: int) -> IO[bytes]:
    """Opens a plain file directly in a scratch folder for reading.

    Args:
        most: bytes that it may have.

    Raises:
        BadOutput: it is not there, is a link, a pipe, a folder or a device, or is too large.
    """
    try:
        # no link is followed, and no pipe waited for
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
    """Copies an output to a file of the judge's.

    Raises:
        BadOutput: as for `open_output`, or it is empty.
    """
    with open_output(scratch, name, most) as source, open(to, "wb") as target:
        shutil.copyfileobj(source, target)
    if not to.stat().st_size:
        raise BadOutput(f"{name} is empty")
    to.chmod(0o644)


def read_predictions(scratch: Path, name: str, count: int, num_classes: int) -> np.ndarray:
    """Class indices int64 [count] from an .npy, without ever unpickling.

    Raises:
        BadOutput: it holds anything else.
    """
    with open_output(scratch, name, 8 * count + 4096) as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, _, dtype = read_header(file)
        except Exception:  # a hostile header has many ways to fail
            raise BadOutput(f"{name} is not an .npy file") from None
        # before the data are read: a shape may promise any size, and an object array holds pickles
        if dtype != np.dtype("<i8"):
            raise BadOutput(f"{name} holds {str(dtype)[:40]}, not int64")
        if shape != (count,):
            raise BadOutput(f"{name} has shape {str(shape)[:40]}, not ({count},): one class index per image")
        content = file.read(8 * count)
    if len(content) != 8 * count:
        raise BadOutput(f"{name} is cut short")
    predicted = np.frombuffer(content, "<i8").astype(np.int64)
    if predicted.min() < 0 or predicted.max() >= num_classes:
        raise BadOutput(f"{name} holds class {predicted.min()} to {predicted.max()}, not 0 to {num_classes - 1}")
    return predicted


def clear(folder: Path) -> None:
    """Removes a folder whatever a submission made of it: locked or thousands of folders deep."""
    if not folder.exists():
        return
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "u+rwx", str(folder)], capture_output=True, check=False)
    subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)
