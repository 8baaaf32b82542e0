"""`python -m rleif`, and `accelerate launch -m rleif`."""

import sys

from rleif.cli import main

if __name__ == "__main__":
    sys.exit(main())
