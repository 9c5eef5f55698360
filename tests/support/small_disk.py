"""File systems of limited size and read-only folders for tests, where this machine can give them."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def may_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "none", folder], capture_output=True, check=False).returncode:
            return False
        subprocess.run(["umount", folder], check=True)
    return True


LIMITS_FILES = os.geteuid() == 0 and may_mount()


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Inside, a new folder is a file system of so many bytes, such as `64k`; only where `LIMITS_FILES`."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Inside, a folder and its files cannot be written; for root only where `LIMITS_FILES`."""
    if os.geteuid():
        for path in (folder, *folder.iterdir()):
            path.chmod(path.stat().st_mode & ~0o222)
    else:
        subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    try:
        yield
    finally:
        if os.geteuid():
            for path in (folder, *folder.iterdir()):
                path.chmod(path.stat().st_mode | 0o200)
        else:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
