"""What steps that go on after errors do with a batch first: leave out what they can't work on.

That is records without a key, and those whose time can't be told. What is left goes through the
same loops as in steps that end the run at an error, which needn't look out for either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from engine.operators._kernels import Failures, Picks
from engine.operators._keys import check_key, refuse_unkeyed
from engine.operators._state import KeyedState
from engine.operators._state_ttl import ExpiringState

TellTime: TypeAlias = Callable[[Any], Any]
"""Gives the time of a record, by its value."""


class Picker:
    """Picks from batches the records that a step can work on.

    Args:
        failures: Takes the others.
        tells: For each input what tells the times of its records; None where nobody asks for them.
    """

    def __init__(self, failures: Failures, tells: Sequence[TellTime | None]) -> None:
        self._failures = failures
        self._tells = tells
        self._times: deque[Any] = deque()

    def pick(self, port: int, batch: list[Any]) -> list[Any]:
        """The records of a batch that can be worked on; see `KeyedLogic.picks`.

        `next_time` gives the time of the first of them then, and so on.
        """
        tell, times = self._tells[port], self._times
        times.clear()
        picked: list[Any] = []
        for record in batch:
            try:
                if record.__class__ is not tuple or len(record) != 2:
                    refuse_unkeyed(record)
                its_key, new = record
                if its_key.__class__ is not str:
                    check_key(its_key)
                time = None if tell is None else tell(new)
            except Exception as ex:
                if not self._failures.take(ex, record, port=port):
                    raise
                continue
            picked.append(record)
            times.append(time)
        return picked

    def next_time(self, _value: object) -> Any:
        """The time of the next record: users' functions are called once for each."""
        return self._times.popleft()


def picks_of(state: KeyedState, failures: Failures | None, sides: int = 1) -> Picks | None:
    """What picks for a step without a clock; its states may have a time to live by event time.

    Args:
        state: The step's.
        failures: Takes what isn't picked; None if the step ends the run at an error.
        sides: How many inputs the step has.
    """
    if failures is None:
        return None
    if not isinstance(state, ExpiringState) or state.event_time is None:
        return Picker(failures, [None] * sides).pick
    picker, saw = Picker(failures, [state.time_us] * sides), state.saw

    def told_us(value: object) -> int:
        at_us: int = picker.next_time(value)
        saw(at_us)
        return at_us

    state.told_us = told_us
    return picker.pick
