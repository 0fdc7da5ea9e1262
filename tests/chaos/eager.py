"""The real command with a store that does everything often: `python -m tests.chaos.eager FLOW ...`.

A drill is small, and would end before its log is long enough to be brought into the table. Here
that begins after a few kilobytes, so that crashes and damage find the table at work too.
"""

from __future__ import annotations

import sys

from engine.recovery._apply import ApplyOptions
from engine.run import main

SMALL = {
    "merge_bytes": 2_000,
    "waiting_bytes_max": 4_000,
    "flush_bytes": 6_000,
    "files_max": 4,
}


def shrink() -> None:
    """Make these the defaults of this process."""
    options = ApplyOptions(**SMALL)
    names = ApplyOptions.__dataclass_fields__
    # All of them have defaults, in this order.
    ApplyOptions.__init__.__defaults__ = tuple(getattr(options, name) for name in names)
    assert ApplyOptions() == options


if __name__ == "__main__":
    shrink()
    sys.exit(main())
