"""``python -m engine.recovery``: the command line of the store, which is in `engine._cli`."""

from __future__ import annotations

import sys

from engine._cli.recovery_command import main

if __name__ == "__main__":
    sys.exit(main())
