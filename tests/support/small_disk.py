"""Whether this machine can give a test a file system of limited size."""

import os
import subprocess
import tempfile


def may_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "none", folder], capture_output=True, check=False).returncode:
            return False
        subprocess.run(["umount", folder], check=True)
    return True


LIMITS_FILES = os.geteuid() == 0 and may_mount()
