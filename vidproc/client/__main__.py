"""``python -m vidproc.client`` is the command ``vidproc``."""

import sys

from vidproc.client.cli import main

if __name__ == "__main__":
    sys.exit(main())
