"""What a time to live does to flows: what records find, what is emitted, what is left."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.operators as op
from engine.clock import clock_set_to, utc_now
from engine.errors import EngineRuntimeError, UserCodeError
from engine.operators._kernels import StepContext
from engine.operators._state_ttl import ExpiringState
from engine.operators._stateful_batch_kernel import StatefulBatchKernel
from engine.recovery import RecoveryConfig
from engine.recovery._admin import StateRecord, StorePlace, states
from engine.recovery._disk import RealDisk
from engine.recovery.store import RocksTables
from tests.operators.flows import emitted_by_all, root_cause
from tests.operators.timed import CRASH, EACH_BATCH, NEVER, Timeline, at, emitted_at

KERNELS = pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "composition"])
TTL_S = 10.0
TTL = timedelta(seconds=TTL_S)
BY_EVENT = op.TTL(TTL, event_time=lambda value: at(value[0]), lateness=timedelta(seconds=100))


def count(n: int | None, _value: Any) -> tuple[int, int]:
    return (n or 0) + 1, (n or 0) + 1


def counts(ttl: Any) -> Callable[..., Any]:
    return lambda s: op.stateful_map("s", s, count, ttl=ttl)


class Objects(op.StatefulLogic):
    """Counts in an object per key."""

    def __init__(self, resume: int | None) -> None:
        self.count = resume or 0

    def on_item(self, value: Any) -> tuple[list[int], bool]:
        self.count += 1
        return [self.count], self.RETAIN

    def on_eof(self) -> tuple[list[Any], bool]:
        return [("eof", self.count)], self.RETAIN

    def snapshot(self) -> int:
        return self.count


class Batches(op.StatefulBatchLogic):
    """Emits the values that it is called with."""

    def __init__(self, resume: Any) -> None:
        self.seen = list(resume or [])

    def on_batch(self, values: list[Any]) -> tuple[list[Any], bool]:
        self.seen.append(values)
        return [list(self.seen)], self.RETAIN

    def snapshot(self) -> Any:
        return self.seen


# Exactly at the time to live, and not before.


@KERNELS
def test_a_record_after_the_time_to_live_finds_no_state(kernels: bool) -> None:
    """The time counts from the last record, not from the first."""
    batches = [(s, [("a", s)]) for s in (0, 9.9, 19, 29, 38.9)]
    assert emitted_at(counts(TTL), batches, kernels=kernels) == [("a", n) for n in (1, 2, 3, 1, 2)]


@KERNELS
def test_records_of_other_keys_keep_nothing_alive(kernels: bool) -> None:
    """Each key has its own time."""
    batches = [(float(s), [("b", s)]) for s in range(1, 10)]
    batches = [(0.0, [("a", 0)]), *batches, (10.0, [("a", 10), ("b", 10)])]
    out = emitted_at(counts(TTL), batches, kernels=kernels)
    assert out[-2:] == [("a", 1), ("b", 10)]


@KERNELS
def test_by_event_time_a_batch_may_span_a_silence(kernels: bool) -> None:
    """The wall clock stands still; the records' own times say when a key is new."""
    batch = [("a", (s, s)) for s in (0, 5, 15, 24.9, 34.9)]
    out = emitted_at(counts(BY_EVENT), [(0.0, batch)], kernels=kernels)
    assert out == [("a", n) for n in (1, 2, 1, 2, 1)]


@KERNELS
def test_late_records_do_not_move_the_time_back(kernels: bool) -> None:
    """A key lives on from its latest record, whatever comes after that."""
    batch = [("a", (s, s)) for s in (0, 9, 2, 18, 1, 28)]
    out = emitted_at(counts(BY_EVENT), [(0.0, batch)], kernels=kernels)
    assert out == [("a", n) for n in (1, 2, 3, 4, 5, 1)]


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40)), max_size=12),
    epochs=st.sampled_from([EACH_BATCH, NEVER]),
    kernels=st.booleans(),
    batch_size=st.integers(1, 4),
)
def test_what_records_find_by_event_time(
    events: list[tuple[str, int]], epochs: timedelta, kernels: bool, batch_size: int
) -> None:
    """As a simple loop over the records says, whenever epochs end."""
    expected: dict[str, list[int]] = {}
    last: dict[str, tuple[int, int]] = {}
    for key, seconds in events:
        latest, n = last.get(key, (seconds, 0))
        if seconds - latest >= TTL_S:
            n = 0
        last[key] = max(latest, seconds), n + 1
        expected.setdefault(key, []).append(n + 1)
    records = [(key, (s, s)) for key, s in events]
    batches = [(0.0, records[i : i + batch_size]) for i in range(0, len(records), batch_size)]
    found: dict[str, list[int]] = {}
    for key, n in emitted_at(counts(BY_EVENT), batches, epochs=epochs, kernels=kernels):
        found.setdefault(key, []).append(n)
    assert found == expected


@pytest.mark.parametrize("seed", range(3))
def test_several_workers(seed: int) -> None:
    """The time is kept where the key is."""
    items = [(f"k{i % 7}", (i, i)) for i in range(21)] + [(f"k{i}", (i + 50, 0)) for i in range(7)]
    out = emitted_by_all(counts(BY_EVENT), items, workers=3, seed=seed)
    assert sorted(out) == sorted((f"k{i}", n) for i in range(7) for n in (1, 2, 3, 1))


def test_after_a_discard_a_key_has_no_age() -> None:
    """A key that was discarded begins anew with its next record, also within a batch."""

    def until_none(n: int | None, value: Any) -> tuple[int | None, int]:
        n = (n or 0) + 1
        return (None if value[1] == "drop" else n), n

    batch = [("a", (s, what)) for s, what in [(100, "drop"), (50, ""), (59, ""), (69, "")]]
    for kernels in (True, False):
        out = emitted_at(
            lambda s: op.stateful_map("s", s, until_none, ttl=BY_EVENT),
            [(0.0, batch)],
            kernels=kernels,
        )
        assert out == [("a", n) for n in (1, 1, 2, 1)]


def test_stateful_batch_is_called_again_after_a_silence() -> None:
    """By event time the values of a batch go to two objects if a silence lies between them."""
    values = [(0, 1), (9, 2), (3, 3), (18, 4), (28, 5), (29, 6)]
    out = emitted_at(
        lambda s: op.stateful_batch("s", s, Batches, ttl=BY_EVENT),
        [(0.0, [("a", v) for v in values])],
    )
    assert out == [("a", [values[:4]]), ("a", [values[4:]])]


# Notifications.


class Alarm(op.StatefulLogic):
    """Asks to be notified so many seconds after a value as the value says."""

    def __init__(self, resume: datetime | None) -> None:
        self.due = resume

    def on_item(self, value: float | None) -> tuple[list[Any], bool]:
        if value is not None:
            self.due = utc_now() + timedelta(seconds=value)
        return ["kept" if value is None else "set"], self.RETAIN

    def on_notify(self) -> tuple[list[Any], bool]:
        self.due = None
        return ["rang"], self.RETAIN

    def notify_at(self) -> datetime | None:
        return self.due

    def on_eof(self) -> tuple[list[Any], bool]:
        return ["eof"], self.RETAIN

    def snapshot(self) -> Any:
        return self.due or at(1e9)


def alarms(ttl: Any = TTL) -> Callable[..., Any]:
    return lambda s: op.stateful("s", s, Alarm, ttl=ttl)


def test_notifications_come_while_a_key_lives() -> None:
    """Those of a key whose time is over by then don't."""
    batches = [(0.0, [("a", 5), ("b", 15)]), (6.0, []), (9.0, []), (16.0, []), (17.0, [])]
    out = emitted_at(alarms(), batches)
    assert out == [("a", "set"), ("b", "set"), ("a", "rang")]


def test_a_late_notification_is_heard_before_its_key_goes() -> None:
    """Whoever asked to be called before the end of the key's life is, if not in time."""
    batches = [(0.0, [("a", 5), ("b", 15)]), (100.0, [("a", None), ("b", None)])]
    out = emitted_at(alarms(), batches)
    assert out == [
        *[("a", "set"), ("b", "set"), ("a", "rang"), ("a", "kept"), ("b", "kept")],
        *[("a", "eof"), ("b", "eof")],
    ]


def test_a_late_notification_is_heard_though_an_epoch_ends_before() -> None:
    """A key that is to be notified is not deleted before."""
    batches = [(0.0, [("a", 5)]), (100.0, [("b", None)]), (101.0, []), (102.0, [("b", None)])]
    out = emitted_at(alarms(), batches, epochs=EACH_BATCH)
    assert [record for record in out if record[0] == "a"] == [("a", "set"), ("a", "rang")]


def test_a_key_that_is_due_is_deleted_at_once() -> None:
    """When its timer comes after its end, nobody has to look for it any more."""
    clock = [at(0).timestamp()]
    state = ExpiringState(op.TTL(TTL), lambda: clock[0])
    step = StepContext("s", 0, 1, SimpleNamespace(epoch=1), lambda: clock[0], state)
    with clock_set_to(lambda: datetime.fromtimestamp(clock[0], UTC)):
        logic = StatefulBatchKernel(lambda _resume: BatchAlarm()).start(step)
        assert logic.on_batch(0, [("a", 50)]) == []
        clock[0] += 50
        assert logic.on_notify() == []
    assert not state.touched


class BatchAlarm(op.StatefulBatchLogic):
    """Wants to be notified so many seconds after the start as its first value says."""

    def on_batch(self, values: list[Any]) -> tuple[list[Any], bool]:
        self.due = at(values[0])
        return [], self.RETAIN

    def on_notify(self) -> tuple[list[Any], bool]:
        return ["rang"], self.RETAIN

    def notify_at(self) -> datetime:
        return self.due

    def snapshot(self) -> None: ...


# At the end of input.

FINALS = {
    "fold_final": lambda s, ttl: op.fold_final("s", s, list, lambda xs, v: [*xs, v], ttl=ttl),
    "reduce_final": lambda s, ttl: op.reduce_final(
        "s", s, lambda x, y: (y[0], x[1] + y[1]), ttl=ttl
    ),
    "max_final": lambda s, ttl: op.max_final("s", s, lambda v: v[1], ttl=ttl),
    "min_final": lambda s, ttl: op.min_final("s", s, lambda v: v[1], ttl=ttl),
    "join": lambda s, ttl: op.join("s", s, emit_mode="final", ttl=ttl),
    "stateful": lambda s, ttl: op.stateful("s", s, Objects, ttl=ttl),
}
EXPECTED = {
    "fold_final": [("b", [(12, 2)]), ("c", [(15, 3), (15, 1)])],
    "reduce_final": [("b", (12, 2)), ("c", (15, 4))],
    "max_final": [("b", (12, 2)), ("c", (15, 3))],
    "min_final": [("b", (12, 2)), ("c", (15, 1))],
    "join": [("b", ((12, 2),)), ("c", ((15, 1),))],
    "stateful": [("b", ("eof", 1)), ("c", ("eof", 2))],
}


@KERNELS
@pytest.mark.parametrize("epochs", [EACH_BATCH, NEVER], ids=["epochs", "one epoch"])
@pytest.mark.parametrize("name", FINALS)
def test_keys_whose_time_is_over_are_not_emitted(
    name: str, epochs: timedelta, kernels: bool
) -> None:
    """At the end of input they are as good as deleted, whether they were or not."""
    events = [("a", (0, 9)), ("b", (1, 5)), ("b", (12, 2)), ("c", (15, 3)), ("c", (15, 1))]
    batches = [(float(value[0]), [(key, value)]) for key, value in events]
    by_event = op.TTL(TTL, event_time=lambda v: at(v[0]), lateness=timedelta(0))
    for ttl in (TTL, by_event):
        out = emitted_at(
            lambda s, ttl=ttl: FINALS[name](s, ttl), batches, epochs=epochs, kernels=kernels
        )
        assert [record for record in out if not isinstance(record[1], int)] == EXPECTED[name]


@KERNELS
def test_the_end_of_input_knows_the_times_of_earlier_runs(kernels: bool, tmp_path: Path) -> None:
    """What is emitted doesn't depend on how often the flow was stopped."""
    ttl = op.TTL(TTL, event_time=lambda v: at(v[0]), lateness=timedelta(0))
    # So many that they are not all deleted at once.
    records = [*[(f"a{i}", (0, 1)) for i in range(3000)], ("b", (100, 2))]
    line = Timeline(
        lambda s: FINALS["max_final"](s, ttl),
        [(0.0, records), (1.0, CRASH)],
        epochs=EACH_BATCH,
        kernels=kernels,
        recovery=RecoveryConfig(tmp_path / "store", create=True),
    )
    line.run()
    assert line.run() == [("b", (100, 2))]


@pytest.mark.parametrize("workers", [1, 3])
@KERNELS
def test_count_final_counts_by_the_times_of_its_records(kernels: bool, workers: int) -> None:
    """Its records have no keys, and the times are theirs."""
    events = [(0, "a"), (9, "a"), (3, "b"), (19, "a"), (20, "a")]
    ttl = op.TTL(TTL, event_time=lambda e: at(e[0]), lateness=timedelta(0))
    out = emitted_by_all(
        lambda s: op.count_final("s", s, lambda e: e[1], ttl=ttl),
        events,
        workers=workers,
        kernels=kernels,
    )
    assert dict(out)["a"] == 2


@KERNELS
def test_reduce_final_on_several_workers_does_not_combine_across_a_silence(kernels: bool) -> None:
    """Values of one batch may lie on both sides of one."""
    events = [("a", (0, 1)), ("a", (20, 2)), ("a", (21, 4))]
    out = emitted_by_all(
        lambda s: FINALS["reduce_final"](s, BY_EVENT), events, workers=2, kernels=kernels
    )
    assert out == [("a", (21, 6))]


# What is left.


class Held:
    """A state that can be watched."""


@pytest.mark.parametrize("ttl", [TTL, op.TTL(TTL, event_time=at)], ids=["arrival", "event time"])
def test_without_recovery_old_states_leave_memory(ttl: Any) -> None:
    """Nothing holds them any more after an epoch or two."""
    held: weakref.WeakSet[Held] = weakref.WeakSet()

    def hold(state: Held | None, _value: Any) -> tuple[Held, int]:
        if state is None:
            state = Held()
            held.add(state)
        return state, len(held)

    batches = [(float(s), [(f"k{s}", s)]) for s in range(100)]
    out = emitted_at(
        lambda s: op.stateful_map("s", s, hold, ttl=ttl), batches, epochs=timedelta(seconds=1)
    )
    assert max(alive for _, alive in out) <= 25


class Kept:
    """A store, and what it has of the step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = RecoveryConfig(path, create=True)

    def rows(self) -> dict[Any, StateRecord]:
        place = StorePlace(RealDisk(), RocksTables(), self.path, "token", time.time())
        return {r.key: r for r in states(place) if not r.of_partition}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    return Kept(tmp_path / "store")


@pytest.mark.parametrize("ttl", [TTL, op.TTL(TTL, event_time=at)], ids=["arrival", "event time"])
@KERNELS
def test_old_keys_leave_the_store(kept: Kept, ttl: Any, kernels: bool) -> None:
    """Also such as no run has in memory: they are found by when they are due."""
    batches: list[Any] = [(float(s), [(f"k{s}", s)]) for s in range(5)]
    batches += [(5.0, CRASH), *[(float(s), [("last", s)]) for s in range(40, 44)]]
    line = Timeline(counts(ttl), batches, epochs=EACH_BATCH, kernels=kernels, recovery=kept.config)
    line.run()
    assert set(kept.rows()) == {f"k{s}" for s in range(5)}
    line.run()
    assert set(kept.rows()) == {"last"}
    last = kept.rows()["last"]
    assert last.state == 4
    assert last.heard_us is not None
    assert last.due_us is not None


def test_without_a_ttl_rows_are_bare(kept: Kept) -> None:
    """What is stored then is the state alone, and nothing is ever due."""
    emitted_at(counts(None), [(0.0, [("a", 1)])], recovery=kept.config)
    row = kept.rows()["a"]
    assert (row.state, row.due_us) == (1, None)


@KERNELS
def test_an_age_outlives_a_crash(kept: Kept, kernels: bool) -> None:
    """What a key's last record was is saved with its state."""
    batches: list[Any] = [(0.0, [("a", 1), ("b", 1)]), (8.0, [("b", 2)]), (9.0, CRASH)]
    batches += [(11.0, [("a", 3), ("b", 3)]), (12.0, CRASH), (15.0, [("a", 4), ("b", 4)])]
    line = Timeline(counts(TTL), batches, epochs=EACH_BATCH, kernels=kernels, recovery=kept.config)
    assert line.run() == [("a", 1), ("b", 1), ("b", 2)]
    assert line.run() == [("a", 1), ("b", 3)]
    assert line.run() == [("a", 2), ("b", 4)]


def changed(kept: Kept, build: Callable[..., Any], before: Any, after: Any) -> list[Any]:
    """Run a step with one time to live for a while, and then go on with another."""
    first: list[Any] = [(0.0, [("a", None), ("b", None)]), (1.0, [("a", None)]), (2.0, CRASH)]
    then: list[Any] = [(5.0, [("a", None)]), *[(s, [("a", None)]) for s in (12.0, 21.0, 31.0)]]
    Timeline(build(before), first, epochs=EACH_BATCH, recovery=kept.config).run()
    return Timeline(build(after), first + then, epochs=EACH_BATCH, recovery=kept.config).run()


def test_a_ttl_may_be_added(kept: Kept) -> None:
    """Stored states begin to age with their key's next record."""
    assert changed(kept, counts, None, TTL) == [("a", n) for n in (3, 4, 5, 1)]
    assert set(kept.rows()) == {"a", "b"}


def test_a_ttl_may_be_taken_away(kept: Kept) -> None:
    """Stored states are what they were, and live for ever."""
    assert changed(kept, counts, TTL, None) == [("a", n) for n in (3, 4, 5, 6)]
    rows = kept.rows()
    assert rows["a"].state == 6
    assert rows["a"].due_us is None


def test_without_its_ttl_a_step_hears_no_notification_of_it(kept: Kept) -> None:
    """A row that is due since its key would have died is no timer."""
    batches: list[Any] = [(0.0, [("a", 1000)]), (1.0, CRASH), *[(s, []) for s in (50.0, 100.0)]]
    Timeline(alarms(), batches, epochs=EACH_BATCH, recovery=kept.config).run()
    out = Timeline(alarms(None), batches, epochs=EACH_BATCH, recovery=kept.config).run()
    assert out == [("a", "eof")]


def test_with_a_longer_life_a_notification_counts_when_it_is_due(kept: Kept) -> None:
    """And not when the row is, by an earlier and shorter time to live."""
    batches: list[Any] = [(0.0, [("a", 150), ("b", 50)]), (1.0, CRASH), (200.0, []), (201.0, [])]
    Timeline(alarms(), batches, epochs=EACH_BATCH, recovery=kept.config).run()
    longer = alarms(timedelta(seconds=100))
    out = Timeline(longer, batches, epochs=EACH_BATCH, recovery=kept.config).run()
    assert out == [("b", "rang")]


@KERNELS
@pytest.mark.parametrize("emit_mode", ["complete", "final"])
def test_a_value_that_a_join_does_not_take_counts_as_heard(
    kept: Kept, emit_mode: Any, kernels: bool
) -> None:
    """With "first" the first value stays, and its age begins anew."""
    batches: list[Any] = [(0.0, [("a", 1)]), (8.0, [("a", 2)]), (9.0, CRASH), (15.0, [("a", -1)])]

    def build(s: Any) -> Any:
        sides = op.branch("sides", s, lambda record: record[1] > 0)
        left, right = sides.trues, sides.falses
        return op.join("s", left, right, insert_mode="first", emit_mode=emit_mode, ttl=TTL)

    line = Timeline(build, batches, epochs=EACH_BATCH, kernels=kernels, recovery=kept.config)
    assert [*line.run(), *line.run()] == [("a", (1, -1))]


def test_cold_keys_with_timers(kept: Kept) -> None:
    """In the store a key is due for the earlier of its notification and its end."""
    batches: list[Any] = [
        (0.0, [("rings", 5), ("rings late", 8), ("dies", 12), ("dies too", 1000)]),
        (1.0, CRASH),
        *[(s, []) for s in (4.0, 6.0, 11.0, 13.0, 14.0)],
    ]
    line = Timeline(alarms(), batches, epochs=EACH_BATCH, recovery=kept.config)
    line.run()
    dues = {key: (row.due_us or 0) / 1e6 - at(0).timestamp() for key, row in kept.rows().items()}
    assert dues["rings"] == 5
    assert dues["rings late"] == 8
    assert 10 <= dues["dies"] == dues["dies too"] < 12
    assert line.run() == [("rings", "rang"), ("rings late", "rang")]
    assert kept.rows() == {}


def test_cold_keys_with_timers_by_event_time(kept: Kept) -> None:
    """Ends by event time and notifications by the wall clock are told apart."""
    ttl = op.TTL(TTL, event_time=lambda v: at((v or 0) - 5000), lateness=timedelta(0))
    batches: list[Any] = [
        (0.0, [("silent", None), ("rings", 5)]),
        (1.0, CRASH),
        *[(s, []) for s in (4.0, 6.0, 7.0)],
        *[(s, [("other", 900.0)]) for s in (20.0, 21.0)],
        (22.0, CRASH),
    ]
    line = Timeline(alarms(ttl), batches, epochs=EACH_BATCH, recovery=kept.config)
    line.run()
    rows = kept.rows()
    assert rows["rings"].due_us == at(5).timestamp() * 1e6
    assert (rows["silent"].due_us or 0) > at(1e10).timestamp() * 1e6, "no look-ahead finds it"
    assert line.run()[0] == ("rings", "rang")
    assert set(kept.rows()) == {"other"}


# Mistakes.


@pytest.mark.parametrize(
    ("ttl", "error", "words"),
    [
        (10, TypeError, "`ttl` of step 'flow.s' must be a `timedelta` or an `op.TTL`; got 10"),
        (timedelta(0), ValueError, "`ttl` of step 'flow.s' must be more than 0"),
        (op.TTL(timedelta(-1)), ValueError, "`ttl.after` of step 'flow.s' must be more than 0"),
        (op.TTL(1.5), TypeError, "`ttl.after` of step 'flow.s' must be a `timedelta`; got 1.5"),
        (op.TTL(TTL, 7), TypeError, "`ttl.event_time` of step 'flow.s' must be a function"),
        (op.TTL(TTL, lateness=TTL), ValueError, "`ttl.lateness` of step 'flow.s' is for event"),
        (op.TTL(TTL, at, -TTL), ValueError, "`ttl.lateness` of step 'flow.s' must be 0 or more"),
        (op.TTL(TTL, at, 3), TypeError, "`ttl.lateness` of step 'flow.s' must be a `timedelta`"),
    ],
)
@pytest.mark.parametrize("name", [*FINALS, "count_final"])
def test_a_ttl_that_makes_no_sense_is_refused(name: str, ttl: Any, error: Any, words: str) -> None:
    """While the flow is built; the error names the argument and the step."""
    finals = {**FINALS, "count_final": lambda s, ttl: op.count_final("s", s, str, ttl=ttl)}
    with pytest.raises(error) as caught:
        emitted_at(lambda s: finals[name](s, ttl), [])
    assert words in str(caught.value)


@KERNELS
@pytest.mark.parametrize("time", [datetime(2024, 1, 1), 17, None])  # noqa: DTZ001 - the point
def test_a_record_without_a_proper_time_is_an_error(time: Any, kernels: bool) -> None:
    """The run ends with the function, the key and the record at fault."""
    ttl = op.TTL(TTL, event_time=lambda _value: time)
    with pytest.raises(EngineRuntimeError, match="'flow.s'.* for key 'a' on 'rec'") as caught:
        emitted_at(counts(ttl), [(0.0, [("a", "rec")])], kernels=True)
    assert isinstance(root_cause(caught.value), UserCodeError)
    with pytest.raises(EngineRuntimeError, match="`event_time` must return a `datetime`"):
        emitted_at(counts(ttl), [(0.0, [("a", "rec")])], kernels=kernels)


def test_ttls_compare_and_show_what_they_are() -> None:
    """They are plain data."""
    assert op.TTL[Any](TTL) == op.TTL(TTL)
    assert op.TTL(TTL, lateness=TTL) != op.TTL(TTL)
    assert repr(TTL) in repr(op.TTL(TTL))
    assert datetime.now(UTC).tzinfo is UTC


@pytest.mark.parametrize("ttl", [TTL, op.TTL(TTL, event_time=at)], ids=["arrival", "event time"])
@KERNELS
def test_states_that_leave_memory_keep_their_age(kept: Kept, ttl: Any, kernels: bool) -> None:
    """With next to no room for states, records find what they find with all the room."""
    batches = [(s / 2, [(f"k{(s * s) % 23}", s / 2), (f"k{s % 7}", s / 2)]) for s in range(120)]
    roomy = emitted_at(counts(ttl), batches, epochs=EACH_BATCH, kernels=kernels)
    narrow = RecoveryConfig(kept.path, create=True, state_memory=1)
    options: Any = {"epochs": EACH_BATCH, "kernels": kernels, "recovery": narrow}
    assert emitted_at(counts(ttl), batches, **options) == roomy
    assert {n for _, n in roomy} > {1, 2, 3}
    old = {key for key, row in kept.rows().items() if (row.due_us or 0) < at(55).timestamp() * 1e6}
    assert not old
