"""The table in `docs/errors.md` of what each operator does about errors, compared with the code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
import engine.operators.windowing as win
from engine.connectors.kafka import KafkaSinkMessage, KafkaSourceMessage
from engine.connectors.kafka import operators as kop
from engine.dataflow import Dataflow, Stream
from engine.runtime import plan
from engine.testing import TestingSink, TestingSource, run_main
from tests.operators.timed import at

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text(encoding="utf-8")
ROW = r"^\| `((?:op|win|kop)\.\w+)` \| ([^|]+) \| ([^|]+) \|$"
ROWS = re.findall(ROW, PAGE, re.MULTILINE)
MODULES = {"op": op, "win": win, "kop": kop}
DAY = timedelta(days=1)

RECORD, CALL, BATCH, NOTHING = "the record", "a key's values of one call", "the batch", "nothing"


def six(value: Any) -> Any:
    """Raises for zero."""
    return 6 // value


def time_of(value: int) -> datetime:
    return at(six(value))


def adding(total: int | None, value: int) -> tuple[int, int]:
    return (total or 0) + six(value), value


class Adding(op.StatefulLogic[int, int, int]):
    def __init__(self, resume: int | None) -> None:
        self.total = resume or 0

    def on_item(self, value: int) -> tuple[list[int], bool]:
        self.total += six(value)
        return [value], self.RETAIN

    def snapshot(self) -> int:
        return self.total


class AddingBatches(op.StatefulBatchLogic[int, int, int]):
    def __init__(self, resume: int | None) -> None:
        self.total = resume or 0

    def on_batch(self, values: list[int]) -> tuple[list[int], bool]:
        self.total += sum(map(six, values))
        return values, self.RETAIN

    def snapshot(self) -> int:
        return self.total


class Windowed(win.WindowLogic[int, int, None]):
    def __init__(self, _resume: None) -> None: ...

    def on_value(self, value: int) -> list[int]:
        return [six(value)]

    def on_merge(self, original: Any) -> list[int]:
        del original
        return []

    def on_close(self) -> list[int]:
        return []

    def snapshot(self) -> None: ...


@dataclass
class Case:
    """A step that is given records, one of which is bad."""

    build: Callable[[Stream[Any]], Any]
    records: list[Any]
    left_out: list[Any] | None = None
    """The bad ones; the second by default."""


CLOCK = win.EventClock(time_of, DAY)
ALL_TIME = win.TumblingWindower(DAY, at(0))
TTL = op.TTL(DAY, event_time=time_of)
NUMBERS = [1, 0, 2]
PAIRS = [("a", 1), ("a", 0), ("a", 2)]
KEYLESS = [("a", 1), (None, 2), ("a", 3)]
READ = [KafkaSourceMessage(b"1", b"1"), KafkaSourceMessage(b"x", b"x")]


def both(join: Callable[[Stream[Any], Stream[Any]], Any]) -> Callable[[Stream[Any]], Any]:
    """A join whose second side gets nothing."""
    return lambda s: join(s, op.filter("none", s, lambda _: False))


def parsed(raw: Any, _context: Any = None) -> int:
    return int(raw)


def sized(number: int, _context: Any = None) -> bytes:
    return str(six(number)).encode()


TO_WRITE = [KafkaSinkMessage(1, 1), KafkaSinkMessage(0, 0)]

CASES: dict[str, Case | None] = {
    "op.branch": Case(lambda s: op.branch("s", s, lambda n: n).trues, [True, 1, False]),
    "op.collect": Case(lambda s: op.collect("s", s, DAY, 9), KEYLESS),
    "op.count_final": Case(lambda s: op.count_final("s", s, six), NUMBERS),
    "op.dead_letters": None,
    "op.dedupe": Case(lambda s: op.dedupe("s", s, six, DAY), NUMBERS),
    "op.enrich_cached": Case(
        lambda s: op.enrich_cached("s", s, six, lambda cache, n: cache.get(n)), NUMBERS
    ),
    "op.filter": Case(lambda s: op.filter("s", s, lambda n: six(n) > 0), NUMBERS),
    "op.filter_map": Case(lambda s: op.filter_map("s", s, six), NUMBERS),
    "op.filter_map_value": Case(lambda s: op.filter_map_value("s", s, six), PAIRS),
    "op.filter_value": Case(lambda s: op.filter_value("s", s, lambda n: six(n) > 0), PAIRS),
    "op.flat_map": Case(lambda s: op.flat_map("s", s, lambda n: [six(n)]), NUMBERS),
    "op.flat_map_batch": Case(
        lambda s: op.flat_map_batch("s", s, lambda b: [six(n) for n in b]), NUMBERS, NUMBERS
    ),
    "op.flat_map_value": Case(lambda s: op.flat_map_value("s", s, lambda n: [six(n)]), PAIRS),
    "op.flatten": Case(lambda s: op.flatten("s", s), [[1], 0, [2]]),
    "op.fold_final": Case(lambda s: op.fold_final("s", s, int, lambda t, n: t + six(n)), PAIRS),
    "op.input": None,
    "op.inspect": Case(lambda s: op.inspect("s", s, lambda _, n: six(n)), NUMBERS),
    "op.inspect_debug": Case(
        lambda s: op.inspect_debug("s", s, lambda _, n, _e, _w: six(n)), NUMBERS
    ),
    "op.join": Case(both(lambda a, b: op.join("s", a, b, ttl=TTL)), PAIRS),
    "op.key_on": Case(lambda s: op.key_on("s", s, six), NUMBERS),
    "op.key_rm": Case(lambda s: op.key_rm("s", s), [("a", 1), 0]),
    "op.map": Case(lambda s: op.map("s", s, six), NUMBERS),
    "op.map_value": Case(lambda s: op.map_value("s", s, six), PAIRS),
    "op.max_final": Case(lambda s: op.max_final("s", s, six), PAIRS),
    "op.merge": None,
    "op.min_final": Case(lambda s: op.min_final("s", s, six), PAIRS[1:], PAIRS[1:2]),
    "op.output": None,
    "op.raises": None,
    "op.redistribute": None,
    "op.reduce_final": Case(lambda s: op.reduce_final("s", s, lambda t, n: t + six(n)), PAIRS),
    "op.rolling": Case(lambda s: op.rolling("s", s, 9, "sum", by=six), PAIRS),
    "op.stateful": Case(lambda s: op.stateful("s", s, Adding, ttl=DAY), PAIRS),
    "op.stateful_batch": Case(lambda s: op.stateful_batch("s", s, AddingBatches), PAIRS, PAIRS),
    "op.stateful_flat_map": Case(
        lambda s: op.stateful_flat_map("s", s, lambda t, n: (t, [six(n)])), PAIRS
    ),
    "op.stateful_map": Case(lambda s: op.stateful_map("s", s, adding, ttl=DAY), PAIRS),
    "op.table_join": Case(both(lambda a, b: op.table_join("s", a, b, ttl=TTL)), PAIRS),
    "op.timeout": Case(lambda s: op.timeout("s", s, DAY), KEYLESS),
    "win.as_of_join": Case(both(lambda a, b: win.as_of_join("s", CLOCK, a, b).down), PAIRS),
    "win.collect_window": Case(lambda s: win.collect_window("s", s, CLOCK, ALL_TIME).down, PAIRS),
    "win.count_window": Case(
        lambda s: win.count_window("s", s, win.SystemClock(), ALL_TIME, lambda n: str(six(n))).down,
        NUMBERS,
    ),
    "win.fold_window": Case(
        lambda s: (
            win.fold_window(
                *("s", s, win.SystemClock(), ALL_TIME, int, lambda t, n: t + six(n), int.__add__)
            ).down
        ),
        PAIRS,
    ),
    "win.interval_join": Case(
        both(lambda a, b: win.interval_join("s", CLOCK, a, b, DAY, DAY).down), PAIRS
    ),
    "win.join_window": Case(
        both(lambda a, b: win.join_window("s", CLOCK, ALL_TIME, a, b).down), PAIRS
    ),
    "win.max_window": Case(lambda s: win.max_window("s", s, CLOCK, ALL_TIME, six).down, PAIRS),
    "win.min_window": Case(
        lambda s: win.min_window("s", s, win.SystemClock(), ALL_TIME, six).down, PAIRS
    ),
    "win.order_by_time": Case(lambda s: win.order_by_time("s", s, CLOCK).down, PAIRS),
    "win.reduce_window": Case(
        lambda s: (
            win.reduce_window("s", s, win.SystemClock(), ALL_TIME, lambda t, n: t + six(n)).down
        ),
        PAIRS,
    ),
    "win.window": Case(
        lambda s: win.window("s", s, win.SystemClock(), ALL_TIME, Windowed).down, PAIRS
    ),
    "op.actor": None,
    "op.task": Case(lambda s: op.task("s", s, six, executor="inline").ok, NUMBERS),
    "kop.deserialize": Case(
        lambda s: kop.deserialize("s", s, key_deserializer=parsed, val_deserializer=parsed).oks,
        READ,
    ),
    "kop.deserialize_key": Case(lambda s: kop.deserialize_key("s", s, parsed).oks, READ),
    "kop.deserialize_value": Case(lambda s: kop.deserialize_value("s", s, parsed).oks, READ),
    "kop.input": None,
    "kop.output": None,
    "kop.serialize": Case(
        lambda s: kop.serialize("s", s, key_serializer=sized, val_serializer=sized), TO_WRITE
    ),
    "kop.serialize_key": Case(lambda s: kop.serialize_key("s", s, sized), TO_WRITE),
    "kop.serialize_value": Case(lambda s: kop.serialize_value("s", s, sized), TO_WRITE),
}


def operators() -> list[str]:
    """All public operators: what takes the name of a step first."""
    return [
        f"{short}.{name}"
        for short, module in MODULES.items()
        for name in module.__all__
        if inspect.isfunction(made := getattr(module, name))
        and next(iter(inspect.signature(made).parameters)) == "step_id"
    ]


def test_every_operator_is_in_the_table():
    """Once, and there is a case for it here."""
    assert sorted(name for name, _, _ in ROWS) == sorted(operators())
    assert sorted(CASES) == sorted(operators())


def test_the_table_says_what_is_left_out():
    """The unit of each, where a policy can be said."""
    units = {name: unit for name, unit, _ in ROWS}
    # What goes to Kafka is looked at before it comes to the sink, which there is none of here.
    special = {"op.flat_map_batch": BATCH, "op.stateful_batch": CALL, "kop.output": RECORD}
    for name, case in CASES.items():
        wanted = special.get(name, RECORD if case is not None else NOTHING)
        assert units[name].strip() == wanted


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case is not None])
def test_what_the_table_says_is_left_out(name: str):
    """Under the job's policy, and no more than that; the run goes on to its end."""
    case = CASES[name]
    assert case is not None
    flow, letters = Dataflow("flow", on_error="dead_letter"), []
    made = case.build(op.input("in", flow, TestingSource(case.records, 10)))
    op.output("out", made, TestingSink([]))
    op.output("letters", op.dead_letters("dead", flow), TestingSink(letters))
    run_main(flow)
    bad = case.records[1:2] if case.left_out is None else case.left_out
    assert [letter.record for letter in letters] == bad
    assert all(letter.step_id.startswith("flow.s") for letter in letters)


def test_steps_without_a_function_for_records_have_no_policy():
    """Whatever the flow says."""
    flow = Dataflow("flow", on_error="skip")
    read = kop.input("kin", flow, brokers=["localhost:1"], topics=["t"])
    op.output("read", read.oks, TestingSink([]))
    s = op.merge("merge", op.input("in", flow, TestingSource([1])))
    s = op.redistribute("redistribute", s)
    op.raises("raises", s)
    op.output("out", s, TestingSink([]))
    kop.output("kout", read.oks, brokers=["localhost:1"], topic="t")
    steps = plan(flow).steps
    told = {step.step_id: step.on_error for step in steps}
    assert {s.on_error for s in steps if s.inner_id.startswith("flow.kout")} == {"skip", "fail"}
    for step in ("merge", "in", "redistribute", "raises", "out"):
        assert told[f"flow.{step}"] == "fail"
