"""`python -m speedtrain`."""

import contextlib
import os
import signal
import sys
from pathlib import Path


def main() -> int:
    """The command; see `speedtrain.cli`."""
    try:
        os.getcwd()
    except FileNotFoundError:
        print("speedtrain: the current folder was deleted; change to another one", file=sys.stderr)
        return 2
    try:
        from speedtrain.cli import main

        return main()
    except KeyboardInterrupt:  # before the command could begin
        return 128 + signal.SIGINT
    finally:
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError:  # a closed terminal or pipe, which the interpreter would try again and complain of
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    # -m puts the current folder first in the path: a timing.py that a person keeps there is not ours
    with contextlib.suppress(FileNotFoundError):  # of a folder that was deleted: told by `main`
        if sys.path[0] == os.getcwd() and Path(__file__).absolute().parent.parent != Path(sys.path[0]):
            del sys.path[0]
    sys.exit(main())
