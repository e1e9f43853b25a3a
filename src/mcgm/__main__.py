"""`python -m mcgm` is `mcgm`."""

import sys

from mcgm.cli import main

if __name__ == "__main__":
    sys.exit(main())
