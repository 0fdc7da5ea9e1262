"""State by key that is dropped when a key has been silent for long: `KeyedState` with a `TTL`.

Each key in memory has a stamp: when its last record came. What a record finds is decided by that
alone, so it doesn't depend on when states are deleted. `expire`, which the worker calls before each
barrier, deletes them: of the keys in memory it looks at some each time, so that all are looked at
a few times while they live; keys that only the store has are found by an index of when they are
due. A deletion is a change of the epoch like any other.

Times are in microseconds since 1970 UTC. By the wall clock the step's time is now; by event time it
is the latest that a record of this run had.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

from engine._stamps import stamped_all, unstamped
from engine.operators._event_time import event_us
from engine.operators._keys import sorted_keys
from engine.operators._state import KeyedState, StateChanges, Stored
from engine.operators._state_options import TTL
from engine.operators._timers import Scan

_SECOND_US = 1_000_000
_SPAN_US_MAX = 1000 * 366 * 86_400 * _SECOND_US
"""A thousand years: any longer is for ever, and times must stay such as a store can hold."""
_NEVER_US = -(1 << 62)
_FAR_US = 1 << 61
"""Where index rows by event time are put if there are timers too, which go by the wall clock."""

_ROUNDS = 4
"""How often each key in memory is looked at while it lives."""
_SLICES = 256
"""How often some of them are, at most."""
_SLICE_KEYS = 1000
"""How many are looked at in any case: the keys of a small job are all looked at each time."""
_GRAINS = 16
"""Index rows are late by at most this part of a life: they needn't change with each record."""


class ExpiringState(KeyedState):
    """State by key with a time to live.

    Args:
        ttl: How long states live.
        now_s: The wall clock, in seconds since 1970 UTC.

    >>> now_s = 0.0
    >>> state = ExpiringState(TTL(timedelta(seconds=10)), lambda: now_s)
    >>> state.arrive("a", state.now_us()); state.put("a", "state")
    >>> now_s = 9.9; state.arrive("a", state.now_us())
    'state'
    >>> now_s = 20.0; state.arrive("a", state.now_us())
    """

    def __init__(self, ttl: TTL[Any], now_s: Callable[[], float]) -> None:
        super().__init__()
        self.stamps: dict[Any, int] = {}
        """When the last record of each key came, of the keys in memory. A state that was stored
        without one has none until its key's next record comes."""
        self.event_time = ttl.event_time
        """The user's function; None if ages count by the wall clock."""
        self.after_us = _microseconds(ttl.after)
        """How long after its last record a key's state is not seen any more."""
        self.latest_us = _NEVER_US
        """The latest event time of this run."""
        self.told_us: Callable[[Any], int] | None = None
        """Gives the event time of the next record, where users' functions were asked beforehand."""
        lateness = ttl.after if ttl.lateness is None else ttl.lateness
        late_us = 0 if ttl.event_time is None else _microseconds(lateness)
        self._life_us = self.after_us + late_us
        self._grain_us = max(1, self.after_us // _GRAINS)
        self._now_s = now_s
        self._scan: Scan | None = None
        self._swept_us: int | None = None
        self._round: Iterator[Any] = iter(())
        self._round_keys = 0
        self._scan_at_us = _NEVER_US

    def attach(self, stored: Stored, scan: Scan | None = None) -> None:
        """As in `KeyedState`; `scan` gives the stored keys that are due."""
        super().attach(stored)
        self._scan = scan

    # What records find.

    def now_us(self) -> int:
        """The wall clock."""
        return round(self._now_s() * _SECOND_US)

    def event_us(self, value: Any) -> int:
        """When a record happened, by its value.

        Raises:
            UserCodeError: The user's function doesn't say so.
        """
        getter = self.event_time
        assert getter is not None  # noqa: S101
        at_us = event_us(getter(value), getter, "event_time")
        if at_us > self.latest_us:  # noqa: PLR1730 - a call less per record
            self.latest_us = at_us
        return at_us

    def time_us(self, value: Any) -> int:
        """As `event_us`, of a record that may be left out: it doesn't count as seen."""
        latest_us = self.latest_us
        at_us = self.event_us(value)
        self.latest_us = latest_us
        return at_us

    def saw(self, at_us: int) -> None:
        """A record of that time was seen after all."""
        self.latest_us = max(self.latest_us, at_us)

    def arrival_us(self) -> Callable[[Any], int]:
        """What gives the time of each record of the batch that has come, by its value."""
        if self.event_time is not None:
            return self.told_us or self.event_us
        now_us = self.now_us()
        return lambda _value: now_us

    def arrive(self, key: Any, at_us: int) -> Any:
        """The state that a record finds which comes for a key at a time; None for none.

        Notes the time. The caller must put a state for the key, or discard it. (The loops of
        `_stateful_kernels` do the same in their own lines.)
        """
        state = self.touched.get(key)
        if state is None:
            state = self.rest.pop(key, None)
            if state is None:
                state = self.miss(key)
        stamp_us = self.stamps.get(key, at_us)
        if stamp_us <= at_us - self.after_us:
            state = None
        if at_us >= stamp_us or self.event_time is None:
            self.stamps[key] = at_us
        return state

    # What differs from states that live for ever.

    def put_back(
        self, key: Any, state: Any, stamp_us: int | None, latest_us: int | None = None
    ) -> None:
        """As in `KeyedState`, with the key's age."""
        super().put_back(key, state, stamp_us)
        if latest_us is not None:
            self.latest_us = latest_us
        if stamp_us is None:
            self.stamps.pop(key, None)
        else:
            self.stamps[key] = stamp_us

    def _revived(self, key: Any, stored: Any) -> Any:
        state, stamp_us = unstamped(stored)
        if stamp_us is not None:
            self.stamps[key] = stamp_us
        return self.form.from_stored(key, state)

    def discard(self, key: Any) -> None:
        """Forget a key, and its timer."""
        super().discard(key)
        self.stamps.pop(key, None)
        if self.form.timers is not None:
            self.form.timers.set(key, None)

    def keys_at_end(self) -> list[Any]:
        """The keys that have state when all input has ended, and whose time isn't over."""
        keys = sorted_keys(self.all_keys())
        for key in keys:
            if key not in self.stamps:
                self.get(key)
        if self.event_time is not None:
            # An earlier run may have seen later times than this one.
            self.latest_us = max([self.latest_us, *self.stamps.values()])
        over_us = self.over_us()
        over = {key for key in keys if self.is_over(key, over_us)}
        for key in over:
            self.discard(key)
        return [key for key in keys if key not in over]

    def barrier(self) -> StateChanges:
        """As in `KeyedState`; stamps are stored with the states, and keys are due when they die."""
        changes = super().barrier()
        stamps = list(map(self.stamps.get, changes.keys))
        stored = stamped_all(changes.stored, stamps)
        over_s = self._over_s(stamps)
        if changes.due_s is not None:
            both = zip(changes.due_s, over_s, strict=True)
            over_s = [self._due_s(timer_s, over) for timer_s, over in both]
        return replace(changes, stored=stored, due_s=over_s)

    def _over_s(self, stamps: list[int | None]) -> list[float | None]:
        """When keys last heard of then are to be deleted, for the index: a little late."""
        grain_us = self._grain_us
        late_us, grain_s = self._life_us + grain_us - 1, grain_us / _SECOND_US
        return [us if us is None else (us + late_us) // grain_us * grain_s for us in stamps]

    def _due_s(self, timer_s: float | None, over_s: float | None) -> float | None:
        """What the index is to say of a key with a timer, or its end, or both."""
        if over_s is None or timer_s is None:
            far_s = 0.0 if self.event_time is None else _FAR_US / _SECOND_US
            return timer_s if over_s is None else over_s + far_s
        return timer_s if self.event_time is not None else min(timer_s, over_s)

    def rotate(self) -> None:
        """As in `KeyedState`; stamps are forgotten with their states."""
        forgotten = self._older
        super().rotate()
        for key in forgotten:
            self.stamps.pop(key, None)

    # Deleting.

    def is_over(self, key: Any, over_us: int) -> bool:
        """Whether a key in memory is to be deleted, those last heard of at `over_us` being over.

        A notification that is due while the key lives is heard first, even if it comes late.
        """
        stamp_us = self.stamps.get(key)
        if stamp_us is None or stamp_us > over_us:
            return False
        if self.form.timers is None or self.event_time is not None:
            return True
        due_s = self.form.timers.due_s.get(key)
        return due_s is None or self.dies_before(stamp_us, due_s)

    def dies_before(self, stamp_us: int, due_s: float) -> bool:
        """Whether a key last heard of at a time dies before a notification, or with it."""
        return stamp_us + self.after_us <= due_s * _SECOND_US

    def expire(self) -> None:
        """Discard keys whose time is over, as many of them as is quickly done."""
        clock_us = self._clock_us()
        if clock_us == _NEVER_US:
            return
        since_us = 0 if self._swept_us is None else clock_us - self._swept_us
        if self._swept_us is not None and 0 <= since_us < self.after_us / _SLICES:
            return
        self._swept_us = clock_us
        share = _ROUNDS * max(0, since_us) / self.after_us
        self._sweep_memory(max(_SLICE_KEYS, math.ceil(self._round_keys * share)))
        self._sweep_store(clock_us)

    def over_us(self) -> int:
        """A key that was last heard of at this time or before is to be deleted."""
        return self._clock_us() - self._life_us

    def _clock_us(self) -> int:
        return self.now_us() if self.event_time is None else self.latest_us

    def _sweep_memory(self, count: int) -> None:
        """Look at the next so many keys in memory."""
        stamps, over_us = self.stamps, self.over_us()
        if len(stamps) <= count:
            keys = list(stamps)
        else:
            keys = list(itertools.islice(self._round, count))
            if len(keys) < count:
                self._round, self._round_keys = iter(list(stamps)), len(stamps)
        get = stamps.get
        for key in [key for key in keys if get(key, math.inf) <= over_us]:
            if self.is_over(key, over_us):
                self.discard(key)

    def _sweep_store(self, clock_us: int) -> None:
        """Look at keys that are due and not in memory."""
        timed = self.form.timers is not None
        if self._scan is None or self._stored is None or self._all_here:
            return
        if clock_us < self._scan_at_us or (timed and self.event_time is None):
            # By the wall clock, a step with timers finds such keys among those.
            return
        # No timer is half as far away as index rows by event time are put then.
        until_us, least_us = (clock_us + _FAR_US, _FAR_US / 2) if timed else (clock_us, -math.inf)
        rows = self._scan(until_us / _SECOND_US)
        due = (key for s, key in rows if s * _SECOND_US > least_us and not self.knows(key))
        # More than the epoch has touched, so that in the long run no key is left behind.
        count_max = _SLICE_KEYS + 2 * len(self.touched)
        keys = list(itertools.islice(due, count_max))
        if len(keys) < count_max:
            self._scan_at_us = clock_us + self._life_us // (2 * _ROUNDS)
        over_us = self.over_us()
        for key, stored in zip(keys, self._stored.load_many(keys) if keys else (), strict=True):
            stamp_us = unstamped(stored)[1]
            if stamp_us is not None and stamp_us <= over_us:
                self._gone.add(key)
            elif stored is not None:
                # Its time to live is longer now: touched, it is due when that is over.
                self.put(key, self._revived(key, stored))


def _microseconds(span: timedelta) -> int:
    return min(span // timedelta(microseconds=1), _SPAN_US_MAX)
