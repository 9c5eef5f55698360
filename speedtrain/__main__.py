"""`python -m speedtrain`."""

import sys

from speedtrain.cli import main

if __name__ == "__main__":
    sys.exit(main())
