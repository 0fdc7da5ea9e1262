"""The time stamp that a step with a time to live stores beside each state.

Operators put it there; what shows the states of a store to people takes it off again.

What is stored is a tuple with a mark in front, so that a flow may give a step a time to live, or
take it away, and still read what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

_MARK = b"\x00ttl\x00"
STAMPED_LEN = 3
"""How long a tuple is that may hold a time stamp; any other is a state alone."""


def stamped(state: Any, stamp_us: int) -> tuple[bytes, int, Any]:
    """What to store for a state whose key was heard of last at a time, in microseconds."""
    return (_MARK, stamp_us, state)


def stamped_all(states: Sequence[Any], stamps_us: Sequence[int | None]) -> list[Any]:
    """What to store for many states; as it is where there is no time."""
    pairs = zip(states, stamps_us, strict=True)
    return [state if us is None else (_MARK, us, state) for state, us in pairs]


def unstamped(stored: Any) -> tuple[Any, int | None]:
    """The state in what was stored, and its time stamp if it has one.

    >>> unstamped(stamped("state", 7))
    ('state', 7)
    >>> unstamped("state")
    ('state', None)
    """
    if stored.__class__ is tuple and len(stored) == STAMPED_LEN:
        mark, stamp_us, state = cast("tuple[Any, Any, Any]", stored)
        if mark.__class__ is bytes and mark == _MARK:
            return state, stamp_us
    return stored, None
