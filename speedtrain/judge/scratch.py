"""The folder that a step may write to: where this process is root, a file system of its own of the size allowed.

The file system lies in a file, mounted by a loop device. It is mounted in a namespace of this thread alone, so nothing
stays mounted when the judge is killed. Elsewhere it is a plain folder, and `limit_watch` looks at its size.
"""

import ctypes
import os
import re
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

FOLDERS = ("tmp", "shm", "home")
"""Folders in it that the sandbox shows under other names."""
ROOM = 2 << 20
"""Bytes that a file system needs for itself, beside a part for its inodes: 256 bytes for every 4096."""
NEW_NAMESPACE, RECURSIVE, SLAVE = 0x20000, 0x4000, 1 << 19  # of unshare(2) and mount(2)

_of_thread = threading.local()


def make_scratch(folder: Path, size: int, user: int) -> None:
    """Makes the scratch folder of a step.

    Args:
        folder: an absolute path at which there is nothing yet.
        size: bytes that it may hold; the kernel's own limit is a little higher, so that `limit_watch` tells of it.
        user: number of the user that the step runs as; used where this process is root.
    """
    folder.mkdir(mode=0o700)
    as_root = os.geteuid() == 0
    if as_root:
        _mount(folder, size)
    for made in (folder, *(folder / name for name in FOLDERS)):
        made.mkdir(mode=0o700, exist_ok=True)
        made.chmod(0o700)
        if as_root:
            os.chown(made, user, user)


def room_for(size: int) -> int:
    """Bytes of disk that a scratch folder of a size takes at the most, with what a file system needs for itself."""
    return size + size // 13 + ROOM


def has_own_size(folder: Path) -> bool:
    """Whether the kernel holds the size of a scratch folder."""
    return os.path.ismount(folder)


def remove_mounts(folder: Path) -> None:
    """Empties and unmounts what `make_scratch` has mounted at a folder, or below it, so that it can be removed."""
    folder = folder.resolve()
    for line in reversed(Path("/proc/thread-self/mountinfo").read_bytes().splitlines()):
        where = Path(os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), line.split()[4])))
        if where.is_relative_to(folder):
            # first: unmounting would write all of it to the disk
            empty = ["find", str(where), "-xdev", "-mindepth", "1", "-maxdepth", "1", "-exec", "rm", "-rf", "{}", "+"]
            for command in (empty, ["umount", "--lazy", str(where)]):
                subprocess.run(command, capture_output=True, check=False)


def _mount(folder: Path, size: int) -> None:
    """Mounts a new file system at a folder, where that is possible."""
    image = folder.with_name(f"{folder.name}.img")
    # blocks and inodes as of a large one: an inode for every block, and times to the nanosecond
    kind = ["-b", "4096", "-i", "4096", "-I", "256", "-m", "0", "-O", "^has_journal,^resize_inode", "-E", "nodiscard"]
    make = ["mkfs.ext4", "-q", "-F", *kind, str(image)]
    with suppress(OSError, subprocess.CalledProcessError):
        _own_mounts()
        with open(image, "wb") as file:
            file.truncate(room_for(size))
        # discard: what a step deletes is given back to the disk
        for command in (make, ["mount", "-o", "loop,nosuid,nodev,discard,noinit_itable", str(image), str(folder)]):
            subprocess.run(command, capture_output=True, check=True)
        (folder / "lost+found").rmdir()
    with suppress(FileNotFoundError):
        image.unlink()  # its blocks are given back when it is no longer mounted


def _own_mounts() -> None:
    """Gives this thread, and what it starts from now on, mounts of its own, where it has none yet.

    Raises:
        OSError: the kernel refused.
    """
    if getattr(_of_thread, "own_mounts", False):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NAMESPACE) or libc.mount(b"none", b"/", None, RECURSIVE | SLAVE, None):
        raise OSError(ctypes.get_errno(), "no mounts of its own")
    _of_thread.own_mounts = True
