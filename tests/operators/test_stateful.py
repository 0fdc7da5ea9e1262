"""`stateful_batch`, `stateful`, `stateful_map` and `stateful_flat_map`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import engine.operators as op
from engine.clock import utc_now
from engine.errors import EngineRuntimeError, UserCodeError
from engine.operators._stateful import _Transitions
from tests.operators.flows import by_key, emitted, emitted_by_all, emitted_in_time, pause

UTC_LESS = datetime(2024, 1, 1)  # noqa: DTZ001 - that is the point
KERNELS = pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "composition"])


def recording(name: str, calls: list[Any]) -> Callable[..., Any]:
    """A builder of logics that write down every call; `discard` as a value discards."""

    class Recorder(op.StatefulBatchLogic):
        def __init__(self, resume: object) -> None:
            calls.append(("build", resume))

        def on_batch(self, values):
            calls.append(("on_batch", list(values)))
            return values, "discard" in values

        def on_eof(self):
            calls.append(("on_eof",))
            return ["eof"], self.DISCARD

        def snapshot(self): ...

    class OneByOne(op.StatefulLogic):
        def __init__(self, resume: object) -> None:
            calls.append(("build", resume))

        def on_item(self, value):
            calls.append(("on_item", value))
            return [value], value == "discard"

        def on_eof(self):
            calls.append(("on_eof",))
            return ["eof"], self.DISCARD

        def snapshot(self): ...

    return Recorder if name == "stateful_batch" else OneByOne


def test_stateful_batch_sees_values_by_key_in_key_order() -> None:
    """One call per key and batch, keys sorted, values in arrival order."""
    calls: list[Any] = []
    builder = recording("stateful_batch", calls)
    out = emitted(
        lambda s: op.stateful_batch("s", s, builder),
        [("b", 1), ("a", 2), ("b", 3), ("a", 4)],
        batch_size=3,
    )
    assert calls == [
        ("build", None),
        ("on_batch", [2]),
        ("build", None),
        ("on_batch", [1, 3]),
        ("on_batch", [4]),
        ("on_eof",),
        ("on_eof",),
    ]
    assert out == [("a", 2), ("b", 1), ("b", 3), ("a", 4), ("a", "eof"), ("b", "eof")]


def test_discard_drops_the_object() -> None:
    """After `DISCARD` the key begins anew, and hears no end of input unless it comes back."""
    calls: list[Any] = []
    builder = recording("stateful_batch", calls)
    out = emitted(lambda s: op.stateful_batch("s", s, builder), [("a", "discard"), ("a", 1)])
    assert [call[0] for call in calls] == ["build", "on_batch", "build", "on_batch", "on_eof"]
    assert out == [("a", "discard"), ("a", 1), ("a", "eof")]


def test_stateful_discards_within_a_batch() -> None:
    """A value after `DISCARD` in the same batch gets a new object."""
    calls: list[Any] = []
    builder = recording("stateful", calls)
    emitted(
        lambda s: op.stateful("s", s, builder),
        [("a", 1), ("a", "discard"), ("a", 2), ("a", "discard")],
        batch_size=4,
    )
    assert calls == [
        ("build", None),
        ("on_item", 1),
        ("on_item", "discard"),
        ("build", None),
        ("on_item", 2),
        ("on_item", "discard"),
    ]


class Alarm(op.StatefulLogic):
    """Asks to be notified as many seconds after a value as the value says; None for never."""

    def __init__(self, resume: object) -> None:
        self.due: datetime | None = None
        self.started = utc_now()

    def on_item(self, value: float | None):
        self.due = None if value is None else utc_now() + timedelta(seconds=value)
        return [], self.RETAIN

    def on_notify(self):
        self.due = None
        return [("rang after", (utc_now() - self.started).total_seconds())], self.RETAIN

    def on_eof(self):
        return ["eof"], self.RETAIN

    def notify_at(self) -> datetime | None:
        return self.due

    def snapshot(self): ...


def alarms(*items: Any) -> list[Any]:
    out = emitted_in_time(lambda s: op.stateful("s", s, Alarm), items)
    return [(key, value) for key, value in out if value != "eof"]


def test_a_timer_fires_once_and_not_early() -> None:
    """`on_notify` comes when the time has come, and not again."""
    [(key, (_, seconds))] = alarms(("a", 5), pause(60))
    assert key == "a"
    assert 5 <= seconds < 5.1


def test_timers_fire_in_order_of_time() -> None:
    """Keys are notified earliest first, whatever the order of their values."""
    assert [key for key, _ in alarms(("a", 7), ("b", 3), ("c", 5), pause(60))] == ["b", "c", "a"]


def test_a_later_value_moves_the_timer() -> None:
    """There is one timer per key: a new time takes the old one's place."""
    [(_, (_, seconds))] = alarms(("a", 5), pause(3), ("a", 5), pause(60))
    assert 8 <= seconds < 8.2


def test_a_timer_can_be_cancelled() -> None:
    """`notify_at` of None takes the time back."""
    assert alarms(("a", 5), pause(3), ("a", None), pause(60)) == []


def test_a_time_in_the_past_is_due_at_once() -> None:
    """It fires after the batch, without waiting."""
    [(_, (_, seconds))] = alarms(("a", -5), pause(60))
    assert seconds < 0.1


def test_discard_cancels_the_timer() -> None:
    """A key that was discarded is not notified any more."""

    class Once(Alarm):
        def on_item(self, value):
            super().on_item(5)
            return [], value == "discard"

    out = emitted_in_time(
        lambda s: op.stateful("s", s, Once), [("a", 1), pause(1), ("a", "discard"), pause(60)]
    )
    assert out == []


def test_timers_left_at_the_end_do_not_fire() -> None:
    """The end of input calls `on_eof`, once, and not `on_notify`."""
    assert emitted_in_time(lambda s: op.stateful("s", s, Alarm), [("a", 5)]) == [("a", "eof")]


def counter(state: int | None, _value: object) -> tuple[int, int]:
    count = (state or 0) + 1
    return count, count


@KERNELS
def test_stateful_map_keeps_state_by_key(kernels: bool) -> None:
    """The mapper gets None first and then what it returned last."""
    out = emitted(
        lambda s: op.stateful_map("s", s, counter),
        [("a", 0), ("b", 0), ("a", 0)],
        kernels=kernels,
    )
    assert out == [("a", 1), ("b", 1), ("a", 2)]


@KERNELS
def test_a_state_of_none_discards(kernels: bool) -> None:
    """After None the key begins anew; a false state stays."""
    seen: list[object] = []

    def mapper(state: object, value: object) -> tuple[object, object]:
        seen.append(state)
        return value, value

    out = emitted(
        lambda s: op.stateful_map("s", s, mapper),
        [("a", 0), ("a", None), ("a", 1)],
        kernels=kernels,
    )
    assert seen == [None, 0, None]
    assert out == [("a", 0), ("a", None), ("a", 1)]


@KERNELS
def test_stateful_flat_map_emits_any_number(kernels: bool) -> None:
    """Each emitted value gets the key, in order; any iterable will do."""
    out = emitted(
        lambda s: op.stateful_flat_map("s", s, lambda n, v: (v, range(v - (n or 0)))),
        [("a", 2), ("a", 1), ("a", 2)],
        batch_size=3,
        kernels=kernels,
    )
    assert out == [("a", 0), ("a", 1), ("a", 0)]


@KERNELS
def test_one_worker_sees_all_values_of_a_key(kernels: bool) -> None:
    """With several workers the counts are the same as with one, each key in order."""
    items = [(f"k{i % 7}", i) for i in range(60)]
    for seed in range(5):
        out = emitted_by_all(
            lambda s: op.stateful_map("s", op.redistribute("r", s), counter),
            items,
            workers=3,
            seed=seed,
            kernels=kernels,
        )
        expected = by_key(emitted(lambda s: op.stateful_map("s", s, counter), items))
        assert by_key(out) == expected


@KERNELS
@pytest.mark.parametrize("name", ["stateful_map", "stateful_flat_map"])
@pytest.mark.parametrize("bad", [None, 1, [1, 2], (1, 2, 3)])
def test_a_mapper_must_return_a_pair(name: str, bad: object, kernels: bool) -> None:
    """What isn't a 2-tuple is refused, with what to return instead."""

    def mapper(_state: object, _value: object) -> object:
        return bad

    with pytest.raises(EngineRuntimeError, match=r"flow\.s") as caught:
        emitted(lambda s: getattr(op, name)("s", s, mapper), [("a", 1)], kernels=kernels)
    error = caught.value.__cause__
    assert isinstance(error, UserCodeError)
    assert error.function is mapper
    assert "must be a 2-tuple" in str(error)
    assert "return `(state, " in error.hint


@KERNELS
def test_a_flat_mapper_must_emit_an_iterable(kernels: bool) -> None:
    """`stateful_flat_map` refuses to emit what can't be iterated over."""
    with pytest.raises(EngineRuntimeError) as caught:
        emitted(
            lambda s: op.stateful_flat_map("s", s, lambda _state, v: (v, v)),
            [("a", 1)],
            kernels=kernels,
        )
    assert "must be an iterable; got 1 of type `int`" in str(caught.value.__cause__)


def logic_returning(result: object, method: str = "on_batch") -> Callable[[object], Any]:
    class Returning(op.StatefulBatchLogic):
        def __init__(self, resume: object) -> None: ...

        def on_batch(self, values):
            return result if method == "on_batch" else ([], self.RETAIN)

        def on_eof(self):
            return result if method == "on_eof" else ([], self.RETAIN)

        def notify_at(self):
            return result if method == "notify_at" else None

        def snapshot(self): ...

    return Returning


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "must return `(values, discard)`; got None"),
        ([[], False], "must return `(values, discard)`; got [[], False]"),
        ((iter([1]), False), "must return a sequence of values to emit"),
        (({1}, False), "must return a sequence of values to emit; got {1} of type `set`"),
        ((None, False), "must return a sequence of values to emit; got None"),
        (([], None), "must return a `bool` that says whether to discard; got None"),
        (([], 0), "must return a `bool` that says whether to discard; got 0 of type `int`"),
    ],
)
@pytest.mark.parametrize("method", ["on_batch", "on_eof"])
def test_what_a_logic_returns_is_checked(result: object, message: str, method: str) -> None:
    """Emits must be a sequence and the flag a real bool; the class is named."""
    builder = logic_returning(result, method)
    with pytest.raises(EngineRuntimeError, match=r"flow\.s") as caught:
        emitted(lambda s: op.stateful_batch("s", s, builder), [("a", 1)])
    error = caught.value.__cause__
    assert isinstance(error, UserCodeError)
    assert error.function is builder
    assert message in str(error)


@pytest.mark.parametrize("result", [5, UTC_LESS, timedelta(1)])
def test_a_notification_needs_a_time_zone(result: object) -> None:
    """A naive time could mean anything, so it is refused."""
    with pytest.raises(EngineRuntimeError) as caught:
        emitted(
            lambda s: op.stateful_batch("s", s, logic_returning(result, "notify_at")), [("a", 1)]
        )
    assert "with a time zone, or None, from `notify_at`" in str(caught.value.__cause__)


@pytest.mark.parametrize("name", ["stateful", "stateful_batch"])
def test_a_builder_must_make_a_logic(name: str) -> None:
    """A builder that forgets to return is named."""
    with pytest.raises(EngineRuntimeError) as caught:
        emitted(lambda s: getattr(op, name)("s", s, lambda _resume: None), [("a", 1)])
    cause = caught.value.__cause__
    assert isinstance(cause, UserCodeError)
    assert "must return a `Stateful" in str(cause)
    assert "got None" in str(cause)


@pytest.mark.parametrize("name", ["stateful", "stateful_batch"])
def test_a_result_within_stateful_is_checked(name: str) -> None:
    """A generator instead of a sequence is refused for single values as for batches."""

    class Generating(op.StatefulLogic):
        def __init__(self, resume: object) -> None: ...

        def on_item(self, value):
            return (x for x in [value]), self.RETAIN

        def on_batch(self, values):
            return self.on_item(values)

        def snapshot(self): ...

    with pytest.raises(EngineRuntimeError) as caught:
        emitted(lambda s: getattr(op, name)("s", s, Generating), [("a", 1)])
    assert "must return a sequence" in str(caught.value.__cause__)


def test_a_mapped_state_is_copied_for_the_snapshot() -> None:
    """A state that the mapper changes in place doesn't change what was saved before."""

    def append(kept: list[int] | None, value: int) -> tuple[list[int], list[int]]:
        kept = kept or []
        kept.append(value)
        return kept, []

    logic = _Transitions(append, None)
    logic.on_item(1)
    saved = logic.snapshot()
    logic.on_item(2)
    assert saved == [1]
    assert _Transitions(append, saved).snapshot() == [1]


def test_utc_is_what_times_are_in() -> None:
    """The clock that logics are given in tests has a time zone."""
    assert utc_now().tzinfo is UTC
