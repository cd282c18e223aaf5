"""``python -m gantransfer`` (and ``torchrun -m gantransfer``): the command line."""

from __future__ import annotations

import sys

from gantransfer.cli import main

if __name__ == "__main__":
    sys.argv[0] = "gantransfer"  # runs record the command as one types it
    sys.exit(main())
