"""How much memory the states of a worker take, and making room when they take too much.

What waits for actors counts too, and leaves memory with their states. States are measured by
samples: a worker has millions of them. The bound is for states in both halves of `KeyedState`, so
the younger half may take half of it; when it does, the worker asks for the next epoch, polls no
source until that one's barriers pass, and rotates the halves behind them.
"""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from types import FunctionType, ModuleType
from typing import Any, Protocol

from engine.operators._state import KeyedState
from engine.operators._state_ttl import ExpiringState

_SAMPLE = 16
_OBJECTS_MAX = 5000
_ENTRY_BYTES = 220
"""What a key takes in the two dicts of `KeyedState`, whatever key and state are."""
_STAMP_BYTES = 130
"""What its time stamp takes in a step with a time to live."""
_MAIL_BYTES = 100
"""What a message's place in its mailbox takes, if there are few in each."""
_NOT_STATE = (type, ModuleType, FunctionType)
_GROWTH = 1.5


class Queue(Protocol):
    """What waits for the actors of a step: `engine.runtime._mailboxes.Mailboxes`."""

    @property
    def in_memory(self) -> int:
        """How many messages of it are in memory."""
        ...

    def sample(self) -> Iterator[Any]:
        """Those in memory."""
        ...


class StateMemory:
    """The memory that all keyed steps of one worker share.

    Args:
        states: The states of the steps.
        bytes_max: How much they may take.
        queues: What waits beside them.
    """

    def __init__(
        self, states: Collection[KeyedState], bytes_max: int, queues: Iterable[Queue] = ()
    ) -> None:
        self._sized: list[SizedState | SizedQueue] = [SizedState(state) for state in states]
        self._sized += [SizedQueue(queue) for queue in queues]
        self._young_max = bytes_max / 2

    def full(self) -> bool:
        """Whether it is time to make room."""
        return sum(sized.nbytes() for sized in self._sized) >= self._young_max

    def make_room(self, states: Collection[KeyedState]) -> None:
        """Rotate some of the states if it is time to; right after their barrier."""
        if self.full():
            for state in states:
                state.rotate()


class _Average:
    """What one of many things takes, measured again when there are far more of them."""

    def __init__(self, entry_bytes: int) -> None:
        self._entry_bytes = entry_bytes
        self._measured_at = 0
        self._bytes_each = 0.0

    def nbytes(self, count: int, things: Callable[[], Iterator[Any]]) -> float:
        """About how much all of them take.

        Args:
            count: How many there are.
            things: Gives them.
        """
        if count > self._measured_at * _GROWTH:
            self._measured_at = count
            self._measure(things())
        elif count < self._measured_at / _GROWTH:
            self._measured_at = count
        return count * self._bytes_each

    def _measure(self, things: Iterator[Any]) -> None:
        # The first ones, and some of all: steps whose states grow have the largest in front.
        sample = [*itertools.islice(things, _SAMPLE)]
        sample += itertools.islice(things, 0, None, max(1, self._measured_at // _SAMPLE))
        if sample:
            total = sum(map(deep_bytes, sample))
            self._bytes_each = self._entry_bytes + total / len(sample)


class SizedState:
    """A step's states with what one of them takes on average.

    Args:
        state: The states of the step.
    """

    def __init__(self, state: KeyedState) -> None:
        self._state = state
        stamp_bytes = _STAMP_BYTES if isinstance(state, ExpiringState) else 0
        self._average = _Average(_ENTRY_BYTES + stamp_bytes)

    @property
    def keys(self) -> int:
        """How many keys have state in memory."""
        return self._state.in_memory

    def nbytes(self) -> float:
        """About how much the states of the younger half of memory take."""
        return self._average.nbytes(self._state.count, self._state.young)


class SizedQueue:
    """What waits for the actors of a step, with what a message of it takes on average.

    Args:
        queue: What waits.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._average = _Average(_MAIL_BYTES)

    def nbytes(self) -> float:
        """About how much of it is in memory."""
        return self._average.nbytes(self._queue.in_memory, self._queue.sample)


def deep_bytes(value: Any) -> int:
    """About how many bytes a value takes with all that it refers to.

    Classes, modules and functions don't count, and of a very large value only a part is looked at.

    >>> deep_bytes(["x" * 1000]) > 1000
    True
    """
    seen: set[int] = set()
    pending = [value]
    total = 0
    while pending and len(seen) < _OBJECTS_MAX:
        item = pending.pop()
        if id(item) in seen or isinstance(item, _NOT_STATE):
            continue
        seen.add(id(item))
        total += sys.getsizeof(item)
        pending += gc.get_referents(item)
    if pending:
        total = total * (len(seen) + len(pending)) // len(seen)
    return total
