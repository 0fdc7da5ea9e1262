"""`ExpiringState` against a model, with and without a store."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.operators import _state_ttl
from engine.operators._state import KeyedState, StateChanges
from engine.operators._state_options import TTL
from engine.operators._state_ttl import ExpiringState
from engine.operators._timers import Timers

TTL_S = 10
LATE_S = 4
KEYS = st.sampled_from("abcdefgh")


class DictStore:
    """What a store keeps of one step: states with what they are due at."""

    def __init__(self) -> None:
        self.rows: dict[Any, tuple[Any, float | None]] = {}

    def load(self, key: Any) -> Any:
        return self.rows[key][0] if key in self.rows else None

    def load_many(self, keys: list[Any]) -> list[Any]:
        return [self.load(key) for key in keys]

    def is_empty(self) -> bool:
        return not self.rows

    def keys(self) -> Iterable[Any]:
        return list(self.rows)

    def scan(self, until_s: float) -> Iterable[tuple[float, Any]]:
        return [(s, key) for key, (_, s) in self.rows.items() if s is not None and s <= until_s]

    def save(self, changes: StateChanges) -> None:
        dues = changes.due_s or [None] * len(changes.keys)
        for key, stored, due_s in zip(changes.keys, changes.stored, dues, strict=True):
            self.rows[key] = stored, due_s
        for key in changes.gone:
            self.rows.pop(key, None)


class Machine(RuleBasedStateMachine):
    """Any sequence of records, silences, barriers, evictions and restarts."""

    event_time = False
    late_s = 0

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.store = DictStore()
        self.model: dict[str, tuple[float, int]] = {}
        """When the last record of each key came, and how many there have been in its life."""
        self.stored = False

    @initialize(stored=st.booleans())
    def begin(self, stored: bool) -> None:
        self.stored = stored
        self.start()

    def start(self) -> None:
        ttl = TTL[Any](timedelta(seconds=TTL_S))
        if self.event_time:
            ttl = TTL(
                ttl.after, lambda s: datetime.fromtimestamp(s, UTC), timedelta(seconds=LATE_S)
            )
        self.state = ExpiringState(ttl, lambda: self.now_s)
        if self.stored:
            self.state.attach(self.store, self.store.scan)

    @rule(key=KEYS, behind=st.integers(0, LATE_S))
    def record(self, key: str, behind: int) -> None:
        at_s = self.now_s - (behind if self.event_time else 0)
        at_us = self.state.event_us(at_s) if self.event_time else self.state.now_us()
        found = self.state.arrive(key, at_us)
        last_s, count = self.model.get(key, (at_s, 0))
        if at_s - last_s >= TTL_S:
            count, last_s = 0, at_s
        assert found == (count or None)
        self.state.put(key, count + 1)
        self.model[key] = max(at_s, last_s), count + 1

    @rule(key=KEYS)
    def discard(self, key: str) -> None:
        self.state.discard(key)
        self.model.pop(key, None)

    @rule(seconds=st.integers(1, 12))
    def pass_time(self, seconds: int) -> None:
        self.now_s += seconds

    @rule()
    def barrier(self) -> None:
        self.state.expire()
        if self.stored:
            self.store.save(self.state.barrier())

    @rule()
    def evict(self) -> None:
        self.barrier()
        if self.stored:
            self.state.rotate()

    @rule()
    def restart(self) -> None:
        self.barrier()
        if self.stored:
            self.start()

    @rule()
    def long_silence(self) -> None:
        """After a while nothing is left of keys that are silent."""
        self.now_s += 3 * (TTL_S + LATE_S)
        for _ in range(3):
            self.now_s += 1
            self.record("z", 0)
            self.barrier()
        kept = {"z"}
        assert set(self.state.all_keys()) == kept
        assert set(self.state.stamps) <= kept
        if self.stored:
            assert set(self.store.rows) == kept
        self.model = {key: seen for key, seen in self.model.items() if key in kept}

    @invariant()
    def stamps_are_of_keys_in_memory(self) -> None:
        if hasattr(self, "state"):
            assert set(self.state.stamps) <= {
                key for states in self.state._memory() for key in states
            }


class EventTimeMachine(Machine):
    """The same by event time, where records may come a little late."""

    event_time = True
    late_s = LATE_S


FEW = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestByTheWallClock = Machine.TestCase
TestByTheWallClock.settings = FEW
TestByEventTime = EventTimeMachine.TestCase
TestByEventTime.settings = FEW


def in_memory(count: int, *, ttl_s: float = 100) -> tuple[ExpiringState, list[float]]:
    """So many keys that came just now, and the clock."""
    clock = [0.0]
    state = ExpiringState(TTL(timedelta(seconds=ttl_s)), lambda: clock[0])
    for key in range(count):
        state.arrive(key, state.now_us())
        state.put(key, "state")
    return state, clock


def test_a_large_state_is_swept_a_little_at_a_time() -> None:
    """Barriers that come often look at a share of the keys each, and at all of them in time."""
    state, clock = in_memory(20_000)
    state.expire()
    clock[0] = 99.0
    state.expire()
    left = [len(state.touched)]
    while left[-1]:
        clock[0] += 2.0
        state.expire()
        left.append(len(state.touched))
    steps = [before - after for before, after in itertools.pairwise(left)]
    assert 0 < max(steps) <= 20_000 * 4 * 2 / 100
    assert clock[0] <= 100 + 2 * 100 / 4 + 4


def test_a_key_takes_its_timer_with_it() -> None:
    """Nobody wakes up for it any more."""
    state, clock = in_memory(0, ttl_s=10)
    state.form.timers = timers = Timers()
    state.arrive("a", state.now_us())
    state.put("a", "state")
    timers.set("a", 50.0)
    clock[0] = 10.0
    state.expire()
    assert not state.touched
    assert timers.first_s() is None


def test_barriers_that_follow_at_once_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an epoch per batch keys are not looked at each time."""
    state, clock = in_memory(10)
    looked: list[int] = []
    monkeypatch.setattr(ExpiringState, "_sweep_memory", lambda _self, count: looked.append(count))
    for _ in range(1000):
        clock[0] += 0.001
        state.expire()
    assert len(looked) <= 4


def cold(rows: int, ttl_s: float, scans: list[float] | None = None) -> tuple[Any, Any, list[float]]:
    """A store with keys that another run left, due at 100 seconds, and a new run on it."""
    clock = [50.0]
    store = DictStore()
    before = ExpiringState(TTL(timedelta(seconds=50)), lambda: clock[0])
    before.attach(store, store.scan)
    for key in range(rows):
        before.arrive(key, before.now_us())
        before.put(key, "state")
    store.save(before.barrier())
    state = ExpiringState(TTL(timedelta(seconds=ttl_s)), lambda: clock[0])

    def scan(until_s: float) -> Iterable[tuple[float, Any]]:
        if scans is not None:
            scans.append(until_s)
        return store.scan(until_s)

    state.attach(store, scan)
    return state, store, clock


def barrier(state: ExpiringState, store: DictStore) -> int:
    """An epoch without records ends; gives how many keys went."""
    state.expire()
    changes = state.barrier()
    store.save(changes)
    return len(changes.gone)


def test_keys_that_only_the_store_has_go_in_portions() -> None:
    """None of them comes to memory for it, and no barrier takes long."""
    state, store, clock = cold(2500, 50)
    assert barrier(state, store) == 0
    clock[0] = 110.0
    portions = []
    while store.rows:
        clock[0] += 1.0
        portions.append(barrier(state, store))
    assert portions == [1000, 1000, 500]
    assert not state.touched


def test_the_index_is_not_read_at_every_barrier() -> None:
    """A few times in a life is enough."""
    scans: list[float] = []
    state, store, clock = cold(10, 1000, scans)
    for _ in range(1000):
        clock[0] += 1.0
        barrier(state, store)
    assert len(scans) <= 9


def test_a_longer_life_counts_for_keys_of_earlier_runs() -> None:
    """What is due by an older and shorter time to live is kept, and due later from now on."""
    state, store, clock = cold(10, 500)
    clock[0] = 120.0
    assert barrier(state, store) == 0
    assert len(store.rows) == 10
    assert {due_s > 500 for _, due_s in store.rows.values()} == {True}
    clock[0] = 600.0
    barrier(state, store)
    clock[0] = 700.0
    barrier(state, store)
    assert not store.rows


def test_a_shorter_life_counts_for_keys_of_earlier_runs() -> None:
    """A record finds no state that is older than the present time to live."""
    state, _, clock = cold(1, 5)
    clock[0] = 56.0
    assert state.arrive(0, state.now_us()) is None


def test_without_a_ttl_the_stamp_is_dropped() -> None:
    """A run of a flow whose step has no time to live any more finds the bare states."""
    _, store, _ = cold(3, 50)
    plain = KeyedState()
    plain.attach(store)
    plain.prefetch([(1, "value")])
    assert [plain.get(0), plain.rest[1], plain.peek(2)] == ["state"] * 3
    changes = plain.barrier()
    assert (changes.keys, changes.stored, changes.due_s) == ([0], ["state"], None)


def test_states_that_were_stored_without_a_stamp_begin_to_age_with_a_record() -> None:
    """A time to live that comes later kills nothing at once."""
    clock = [0.0]
    store = DictStore()
    store.rows = dict.fromkeys("ab", ("state", None))
    state = ExpiringState(TTL(timedelta(seconds=10)), lambda: clock[0])
    state.attach(store, store.scan)
    clock[0] = 1000.0
    assert state.arrive("a", state.now_us()) == "state"
    state.put("a", "state")
    for _ in range(3):
        clock[0] += 100.0
        barrier(state, store)
    assert set(store.rows) == {"b"}


@settings(max_examples=50, deadline=None)
@given(
    start_us=st.integers(-(10**15), 4 * 10**15),
    ttl_us=st.integers(1, 10**10),
    gap_us=st.integers(-2, 2),
)
def test_event_time_is_exact(start_us: int, ttl_us: int, gap_us: int) -> None:
    """To the microsecond: at the time to live a key is new, one microsecond before it isn't."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    ttl = TTL(timedelta(microseconds=ttl_us), lambda us: epoch + timedelta(microseconds=us))
    state = ExpiringState(ttl, lambda: 0.0)
    state.arrive("a", state.event_us(start_us))
    state.put("a", "state")
    found = state.arrive("a", state.event_us(start_us + ttl_us + gap_us))
    assert (found is None) == (gap_us >= 0)


def test_a_life_without_end_can_be_stored() -> None:
    """The longest `timedelta` there is makes no times that a store can't hold."""
    for event_time in (None, lambda _value: datetime.max.replace(tzinfo=UTC)):
        state = ExpiringState(TTL(timedelta.max, event_time), lambda: 1.7e9)
        state.form.timers = Timers()
        state.arrive("a", state.arrival_us()("value"))
        state.put("a", "state")
        state.touched = {"a": "state"}
        (due_s,) = state.barrier().due_s or ()
        assert due_s is not None
        assert due_s * 1e6 < 2**63 - 1


def test_index_rows_change_seldom() -> None:
    """A key whose records come often is not moved in the index with each of them."""
    state, clock = in_memory(0, ttl_s=160)
    dues = set()
    state.touched = {}
    for second in range(20):
        clock[0] = float(second)
        state.arrive("a", state.now_us())
        state.put("a", "state")
        dues.update(state.barrier().due_s or ())
    assert dues == {160.0, 170.0, 180.0}


def test_the_constants_fit_each_other() -> None:
    """Times by the wall clock and by event time don't meet in the index."""
    year_9999_us = datetime.max.replace(tzinfo=UTC).timestamp() * 1e6
    assert year_9999_us + _state_ttl._SPAN_US_MAX < _state_ttl._FAR_US / 2
