"""``python -m engine.testing module:flow -p 2 -w 2``: as `engine.run`.

Those who come from Bytewax know it as the way to a cluster on one machine.
"""

from __future__ import annotations

import sys

from engine.run import main

if __name__ == "__main__":
    sys.exit(main())
