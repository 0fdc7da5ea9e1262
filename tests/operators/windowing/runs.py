"""Flows with windows for tests: batches in at their times, and by key what came out.

Used with the oracle and by directed tests; each can be run by kernels or by compositions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import engine.operators as op
import engine.operators.windowing as win
from engine.dataflow import Stream
from engine.recovery import RecoveryConfig
from tests.operators import timed
from tests.operators.windowing.oracle import (
    END,
    Batch,
    ClockModel,
    Expected,
    WindowerModel,
    events,
    expected,
    us,
)

START = timed.START
"""Where the wall clock stands at the beginning."""
ZERO = timedelta(0)
BERLIN = ZoneInfo("Europe/Berlin")

WAYS = {"composition": False, "kernel": True}
"""Of running a flow: whether with kernels."""


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def second(value: Any) -> datetime:
    """The time of a value that is a number of seconds."""
    return at(value)


def tumbling(seconds: float) -> win.TumblingWindower:
    return win.TumblingWindower(timedelta(seconds=seconds), START)


def sliding(length: float, offset: float) -> win.SlidingWindower:
    return win.SlidingWindower(timedelta(seconds=length), timedelta(seconds=offset), START)


def session(gap: float) -> win.SessionWindower:
    return win.SessionWindower(timedelta(seconds=gap))


def event_clock(wait: float = 0) -> win.EventClock[Any]:
    return win.EventClock(second, timedelta(seconds=wait))


class OwnClock(win.Clock[Any, Any]):
    """A clock of a user's own: another, of what a function makes of values."""

    def __init__(self, clock: win.Clock[Any, Any], inner: Callable[[Any], Any]) -> None:
        self.clock, self.inner = clock, inner

    def build(self, resume_state: Any) -> _OwnLogic:
        return _OwnLogic(self.clock.build(resume_state), self.inner)


class _OwnLogic(win.ClockLogic[Any, Any]):
    def __init__(self, logic: win.ClockLogic[Any, Any], inner: Callable[[Any], Any]) -> None:
        self.logic, self.inner = logic, inner

    def after_outage(self) -> None:
        self.logic.after_outage()

    def before_batch(self) -> None:
        self.logic.before_batch()

    def on_item(self, value: Any) -> tuple[datetime, datetime]:
        return self.logic.on_item(self.inner(value))

    def on_notify(self) -> datetime:
        return self.logic.on_notify()

    def on_eof(self) -> datetime:
        return self.logic.on_eof()

    def to_system_utc(self, timestamp: datetime) -> datetime | None:
        return self.logic.to_system_utc(timestamp)

    def snapshot(self) -> Any:
        return self.logic.snapshot()


class Came(Expected):
    """What came out for a key; metadata as the oracle writes it."""


def all_three(out: win.WindowOut[Any, Any]) -> Stream[Any]:
    """The three streams as one, each record with the name of its own."""
    named = [
        op.map(name, getattr(out, name), lambda record, name=name: (name, record))
        for name in ("down", "late", "meta")
    ]
    return op.merge("all", *named)


def sorted_out(came: Sequence[Any]) -> dict[Any, Came]:
    """What came out, by key."""
    by_key: dict[Any, Came] = defaultdict(Came)
    for name, (key, (window_id, value)) in came:
        getattr(by_key[key], name).append((window_id, plain(value) if name == "meta" else value))
    return dict(by_key)


def plain(metadata: win.WindowMetadata) -> Any:
    """Metadata as the oracle has it."""
    return metadata.open_time, metadata.close_time, frozenset(metadata.merged_ids)


class Run:
    """A flow with windows, which can go on after an end of input if it has a store.

    Args:
        build: Makes the operator of streams, one for each side.
        batches: (seconds by the wall clock, records) or (seconds, records, side).
        kernels: Whether to run with kernels.
        recovery: Where to save, each batch by itself.
    """

    def __init__(
        self,
        build: Callable[..., win.WindowOut[Any, Any]],
        batches: Sequence[Any],
        *,
        kernels: bool,
        sides: int = 1,
        recovery: RecoveryConfig | None = None,
    ) -> None:
        self.batches: list[Any] = []
        self.add(batches)

        def built(s: Stream[Any]) -> Stream[Any]:
            if sides == 1:
                return all_three(build(op.map("value", s, lambda record: record[1])))
            mine = [
                op.map(
                    f"value_{n}",
                    op.filter(f"side_{n}", s, lambda record, n=n: record[0] == n),
                    lambda record: record[1],
                )
                for n in range(sides)
            ]
            return all_three(build(*mine))

        self.line = timed.Timeline(
            built,
            self.batches,
            epochs=timed.EACH_BATCH if recovery else timed.NEVER,
            kernels=kernels,
            recovery=recovery,
        )

    def add(self, batches: Sequence[Any]) -> None:
        """More input, for the next run."""
        for seconds, records, *side in batches:
            labelled = [(side[0] if side else 0, record) for record in records]
            self.batches.append((float(seconds), records if records == timed.CRASH else labelled))

    def run(self) -> dict[Any, Came]:
        return sorted_out(self.line.run())


def came(build: Callable[..., Any], batches: Sequence[Any], **options: Any) -> dict[Any, Came]:
    """What comes out of a flow of one run."""
    return Run(build, batches, **options).run()


def of_oracle(
    batches: Sequence[Any],
    clock: ClockModel,
    windower: Callable[[], WindowerModel],
    make: Callable[[], Any],
    *,
    ordered: bool,
) -> dict[Any, Expected]:
    """What should come out of batches as `Run` takes them, and `END`s among them."""
    whole = [
        batch
        if batch is END
        else Batch(us(at(batch[0]) - datetime(1970, 1, 1, tzinfo=UTC)), tuple(batch[1]))
        for batch in batches
    ]
    keys = dict.fromkeys(key for batch in whole for key, _ in batch.records)
    return {
        key: expected(events(whole, key, clock, windower(), ordered=ordered), make) for key in keys
    }
