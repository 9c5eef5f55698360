"""Images and arrays that are too large for memory: in a file, of which memory holds what is in use.

An array that would take more than half of the free memory is mapped into a file (`numpy.memmap`). The file has no name,
so that nothing is left of it after the process, whatever ends it. What is copied from such an array is mapped as well,
and copied block by block.
"""

import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO, Literal

import numpy as np

from speedtrain.errors import UserError
from speedtrain.machine import free_memory, is_in_memory

VARIABLE = "TMPDIR"
"""Environment variable with the folder for large temporary files."""
USUAL = "/var/tmp"
"""Their folder where nothing is said: /tmp may be in memory, and /var/tmp is not (file-hierarchy(7))."""
HELD = 2
"""Of the images, copies in files at the most at once: as read, and divided into training and test images or on their
way to the process that trains."""
BLOCK = 16 << 20
"""Bytes that are copied at once."""
MIB = 1 << 20


def temporary_folder() -> Path:
    """Where large temporary files lie."""
    for folder in (os.environ.get(VARIABLE), USUAL):
        if folder and os.access(folder, os.W_OK):
            return Path(folder)
    return Path(tempfile.gettempdir())


def folder_for(images: np.ndarray) -> Path:
    """Where a file with images for another process goes: to the disk if they are mapped."""
    return temporary_folder() if isinstance(images, np.memmap) else Path(tempfile.gettempdir())


def empty_images(count: int, side: int) -> np.ndarray:
    """Room for images uint8 [count, side, side, 3]: in memory, or mapped where that is more than half of what is free.

    Raises:
        UserError: they do not fit on the disk either.
    """
    if not is_large(count * side**2 * 3):
        return np.empty((count, side, side, 3), np.uint8)
    return _mapped_images(count, side, HELD, free_memory() // 2)


def is_large(size: int) -> bool:
    """Whether so many bytes are to be mapped: more than half of the free memory."""
    return size > free_memory() // 2


def read_mapped(
    file: IO[bytes], shape: tuple[int, ...], kind: np.dtype, order: Literal["C", "F"], where: object
) -> np.ndarray:
    """An array from the bytes that a file gives next, mapped.

    Args:
        shape, kind, order: of the array: its type, and the order of its bytes.
        where: how an error calls it.

    Raises:
        EOFError: the file ends before the array does.
        UserError: it does not fit on the disk.
    """
    needed = math.prod(shape) * kind.itemsize
    folder = temporary_folder()
    free = _room(folder)
    if free is not None and needed > free:
        there = f"{needed / MIB:,.0f} MiB there, and {free / MIB:,.0f} are free"
        raise UserError(
            f"{where}: an array in it is too large for memory, and for {folder}: it needs {there}: "
            f"name a folder with more room by {VARIABLE}"
        )
    array = _mapped(shape, kind, order, f"an array of {where}")
    place = array.reshape(-1, order=order).view(np.uint8)
    while len(place):
        block = file.read(min(MIB, len(place)))
        if not block:
            raise EOFError(f"{len(place)} bytes of an array are missing")
        place[: len(block)] = np.frombuffer(block, np.uint8)
        place = place[len(block) :]
    return array


def take(images: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """A copy of `images[chosen]`, mapped if the images are.

    Args:
        images: uint8 [N, side, side, 3].
        chosen: bool [N], or indices.

    Raises:
        UserError: it does not fit on the disk.
    """
    places = np.arange(len(images))[chosen]
    if not (isinstance(images, np.memmap) and len(places)):
        return images[chosen]
    taken = _mapped_images(len(places), images.shape[1])
    step = max(1, BLOCK // images[0].nbytes)
    for first in range(0, len(places), step):
        taken[first : first + step] = images[places[first : first + step]]
    return taken


def join(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Images of the same side, one after the other, in room that `empty_images` gives."""
    joined = empty_images(len(first) + len(second), first.shape[1])
    joined[: len(first)] = first
    joined[len(first) :] = second
    return joined


def check_disk(folder: Path, count: int, side: int, copies: int = 1, memory: int = 0) -> None:
    """Refuses images that do not fit on a disk, and names the side at which they would.

    Args:
        folder: on the disk.
        count, side: how many images, of how many pixels a side.
        copies: how often they lie there. Default: once.
        memory: bytes of images that would need no disk, being half of the free memory. Default: none.

    Raises:
        UserError: they do not fit.
    """
    needed, free = copies * count * side**2 * 3, _room(folder)
    if free is not None and needed > free:
        fits = math.isqrt(max(free // copies, memory) // (count * 3))
        there = f"they need {needed / MIB:,.0f} MiB there, and {free / MIB:,.0f} are free"
        instead = f" (in memory, images could take {memory / MIB:,.0f})" if memory else ""
        smaller = f"--side {fits}, " if fits else ""
        advice = f"give {smaller}fewer images, or a folder with more room by {VARIABLE}"
        raise UserError(f"{folder}: no room for {count} images of {side}×{side} pixels: {there}{instead}: {advice}")


def _room(folder: Path) -> int | None:
    """Bytes that a disk has room for; None where its file system does not tell."""
    usage = shutil.disk_usage(folder)
    free = min(usage.free, free_memory()) if is_in_memory(folder) else usage.free
    return free if usage.total else None


def _mapped_images(count: int, side: int, copies: int = 1, memory: int = 0) -> np.ndarray:
    """uint8 [count, side, side, 3], mapped; arguments and errors as for `check_disk`."""
    check_disk(temporary_folder(), count, side, copies, memory)
    return _mapped((count, side, side, 3), np.dtype(np.uint8), "C", f"{count} images of {side}×{side} pixels")


def _mapped(shape: tuple[int, ...], kind: np.dtype, order: Literal["C", "F"], what: str) -> np.memmap:
    """An array in a file without a name.

    Args:
        shape, kind, order: as for `read_mapped`.
        what: how an error calls it.

    Raises:
        UserError: the disk refuses it.
    """
    folder = temporary_folder()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # a disk that is full later would end the process by SIGBUS
                os.posix_fallocate(file.fileno(), 0, math.prod(shape) * kind.itemsize)
            return np.memmap(file, kind, "r+", shape=shape, order=order)
    except OSError as error:
        why = f"{what} cannot be written ({error.strerror})"
        raise UserError(f"{folder}: {why}: name another folder by {VARIABLE}") from None
