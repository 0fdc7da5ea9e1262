"""``python -m engine.dlq COMMAND DIR ...``: the dead letters that a recovery store keeps.

A step with ``.on_error("dead_letter")`` leaves out the records that its functions raise for, and
where the flow doesn't take them by `engine.operators.dead_letters` they are kept in the store.
This lists them, shows one, forgets some, or has them put back at the input of their step when the
flow is started next.
"""

from __future__ import annotations

import sys

from engine._cli.dlq_command import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
