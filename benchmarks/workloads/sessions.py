"""Sessions: the mean of each session of a key, by `fold_window`, with 10,000 keys.

What comes out leaves out the sessions' ids: they count in the order in which sessions were opened,
which is another one when values come in the order of their times. There are no more records since
Bytewax, which never forgets a key here, would become slower than their times, and then values are
late. By hand, most values belong to their key's latest session; sessions whose time is over are
looked for every `GAP` of event time.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from benchmarks.contenders import BARE, BARE_UDF
from benchmarks.feeds import Batch
from benchmarks.workloads._throughput import Emit
from benchmarks.workloads._windowed import (
    ALIGN_TO,
    WAIT,
    Mean,
    Windowed,
    merged,
    no_mean,
    readings,
    time_of,
    windowing_of,
    with_reading,
)

GAP = timedelta(seconds=10)
KEYS = 10_000

Session = list[Any]
"""First and last time, then the fold: one `Mean`, or a count and a sum."""


def mean_of(session: tuple[int, Mean]) -> float:
    _number, (count, total) = session
    return total / count


def graph(op: Any, up: Any, *, ordered: bool) -> Any:
    win = windowing_of(op)
    sessions = win.fold_window(
        "session",
        up,
        win.EventClock(time_of, WAIT),
        win.SessionWindower(GAP),
        no_mean,
        with_reading,
        merged,
        ordered,
    )
    return op.map_value("mean", sessions.down, mean_of)


def loop_udf(emit: Emit, batches: Iterable[Batch]) -> None:
    sessions: dict[str, list[Session]] = {}
    at, look_at = ALIGN_TO, ALIGN_TO + GAP
    for batch in batches:
        for key, reading in batch:
            at = time_of(reading)
            of_key = sessions.get(key)
            if of_key is None:
                sessions[key] = [[at, at, with_reading(no_mean(), reading)]]
                continue
            session = of_key[-1]
            if session[0] <= at <= session[1] + GAP:
                session[2] = with_reading(session[2], reading)
                session[1] = max(session[1], at)
            else:
                _insert(of_key, [at, at, with_reading(no_mean(), reading)])
        if at >= look_at:
            look_at = at + GAP
            emit([(key, mean_of((0, done[2]))) for key, done in _ended(sessions, at - WAIT - GAP)])
    emit([(key, mean_of((0, done[2]))) for key, of_key in sessions.items() for done in of_key])


def _insert(of_key: list[Session], new: Session) -> None:
    """Add a session of one value, joined with those that it reaches."""
    apart: list[Session] = []
    for session in of_key:
        if session[0] - GAP <= new[1] and new[0] <= session[1] + GAP:
            mean = merged(session[2], new[2])
            new = [min(session[0], new[0]), max(session[1], new[1]), mean]
        else:
            apart.append(session)
    apart.append(new)
    of_key[:] = sorted(apart, key=_first)


def loop_inlined(emit: Emit, batches: Iterable[Batch]) -> None:
    sessions: dict[str, list[Session]] = {}
    get = sessions.get
    at, look_at = ALIGN_TO, ALIGN_TO + GAP
    for batch in batches:
        for key, (at, reading) in batch:
            of_key = get(key)
            if of_key is None:
                sessions[key] = [[at, at, 1, reading]]
                continue
            session = of_key[-1]
            first, last, _, _ = session
            if first <= at:
                if at <= last:
                    session[2] += 1
                    session[3] += reading
                    continue
                if at - last <= GAP:
                    session[1] = at
                    session[2] += 1
                    session[3] += reading
                    continue
            _insert_inlined(of_key, [at, at, 1, reading])
        if at >= look_at:
            look_at = at + GAP
            emit([(key, done[3] / done[2]) for key, done in _ended(sessions, at - WAIT - GAP)])
    emit([(key, done[3] / done[2]) for key, of_key in sessions.items() for done in of_key])


def _insert_inlined(of_key: list[Session], new: Session) -> None:
    latest = of_key[-1]
    if new[0] > latest[1]:
        of_key.append(new)
        return
    apart: list[Session] = []
    for session in of_key:
        if session[0] - GAP <= new[1] and new[0] <= session[1] + GAP:
            first, last = min(session[0], new[0]), max(session[1], new[1])
            new = [first, last, session[2] + new[2], session[3] + new[3]]
        else:
            apart.append(session)
    apart.append(new)
    of_key[:] = sorted(apart, key=_first)


def _first(session: Session) -> Any:
    return session[0]


def _ended(sessions: dict[str, list[Session]], before: datetime) -> list[tuple[str, Session]]:
    """Take out the sessions whose last value came before a time."""
    ended: list[tuple[str, Session]] = []
    for key in [key for key, of_key in sessions.items() if of_key[0][1] < before]:
        of_key = sessions[key]
        while of_key and of_key[0][1] < before:
            ended.append((key, of_key.pop(0)))
        if not of_key:
            del sessions[key]
    return ended


WORKLOADS = (
    Windowed(
        name="sessions",
        title="Mean per session, gap of 10 s; 100,000 records, 10,000 keys",
        feeds=lambda records: [readings(records, KEYS)],
        loops={BARE_UDF: loop_udf, BARE: loop_inlined},
        graph=graph,
        records=100_000,
    ),
)
