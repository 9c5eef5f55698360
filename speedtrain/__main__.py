"""`python -m speedtrain`."""

import os
import sys
from pathlib import Path


def main() -> int:
    """The command; see `speedtrain.cli`."""
    from speedtrain.cli import main

    return main()


if __name__ == "__main__":
    # -m puts the current folder first in the path: a timing.py that a person keeps there is not ours
    if sys.path[0] == os.getcwd() and Path(__file__).absolute().parent.parent != Path(sys.path[0]):
        del sys.path[0]
    sys.exit(main())
