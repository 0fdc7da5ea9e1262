"""`input` and `output`."""

from __future__ import annotations

import pytest

import engine.operators as op
from engine.connectors import (
    DynamicSink,
    DynamicSource,
    FixedPartitionedSink,
    StatefulSinkPartition,
    StatelessSinkPartition,
    StatelessSourcePartition,
)
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow
from engine.testing import TestingSink, TestingSource, run_main
from tests.operators.flows import emitted


class OnePart(StatelessSourcePartition[int]):
    def __init__(self, items: list[int]) -> None:
        self._items = items

    def next_batch(self) -> list[int]:
        if not self._items:
            raise StopIteration
        items, self._items = self._items, []
        return items


class AnySource(DynamicSource[int]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> OnePart:
        return OnePart([1, 2])


class Written(StatefulSinkPartition[str, None]):
    def __init__(self, values: list[str]) -> None:
        self.write_batch = values.extend  # type: ignore[method-assign]

    def write_batch(self, values: list[str]) -> None: ...

    def snapshot(self) -> None: ...


class KeyedSink(FixedPartitionedSink[str, None]):
    def __init__(self) -> None:
        self.parts: dict[str, list[str]] = {"even": [], "odd": []}

    def list_parts(self) -> list[str]:
        return list(self.parts)

    def part_fn(self, item_key: str) -> int:
        return int(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> Written:
        return Written(self.parts[for_part])


class WholeRecords(StatelessSinkPartition[object]):
    def __init__(self, out: list[object]) -> None:
        self._out = out

    def write_batch(self, items: list[object]) -> None:
        self._out.extend(items)


class AnySink(DynamicSink[object]):
    def __init__(self) -> None:
        self.out: list[object] = []

    def build(self, step_id: str, worker_index: int, worker_count: int) -> WholeRecords:
        return WholeRecords(self.out)


def test_a_partitioned_source_is_read_in_order() -> None:
    """What a source gives comes through, whatever the size of its batches."""
    assert emitted(lambda s: s, range(5), batch_size=2) == [0, 1, 2, 3, 4]


def test_a_dynamic_source_is_read() -> None:
    """A source without partitions works as well."""
    flow, sink = Dataflow("flow"), AnySink()
    op.output("out", op.input("in", flow, AnySource()), sink)
    run_main(flow)
    assert sink.out == [1, 2]


def test_inputs_take_turns() -> None:
    """One batch per input and turn, in the order in which they were declared."""
    out = emitted(lambda one, two: op.merge("m", one, two), [1, 2, 3], ["a", "b", "c"])
    assert out == [1, "a", 2, "b", 3, "c"]


def test_a_partitioned_sink_gets_values_only_by_key() -> None:
    """Keys choose the partition and are not written."""
    flow, sink = Dataflow("flow"), KeyedSink()
    s = op.input("in", flow, TestingSource([("1", "one"), ("2", "two"), ("3", "three")]))
    op.output("out", s, sink)
    run_main(flow)
    assert sink.parts == {"even": ["two"], "odd": ["one", "three"]}


def test_a_dynamic_sink_gets_whole_records() -> None:
    """Keys are written by a sink that has no partitions."""
    flow, sink = Dataflow("flow"), AnySink()
    op.output("out", op.input("in", flow, TestingSource([("1", "one")])), sink)
    run_main(flow)
    assert sink.out == [("1", "one")]


def test_several_outputs_get_everything() -> None:
    """A stream given to two sinks is copied."""
    flow, out = Dataflow("flow"), ([], [])
    s = op.input("in", flow, TestingSource([1, 2]))
    for i, kept in enumerate(out):
        op.output(f"out_{i}", s, TestingSink(kept))
    run_main(flow)
    assert out == ([1, 2], [1, 2])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            [1, 2],
            r"`source` of step 'flow\.in' must be a source: .*FixedPartitionedSource.*`list`",
        ),
        (TestingSource, "got the class `TestingSource` itself: make an object of it"),
        (KeyedSink(), r"`KeyedSink` is a sink: it belongs in `op\.output`"),
        (None, "got None of type `NoneType`"),
    ],
)
def test_what_is_not_a_source_is_refused(bad: object, message: str) -> None:
    """The error comes while the flow is built, and says what would be right."""
    with pytest.raises(TypeError, match=message):
        op.input("in", Dataflow("flow"), bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (print, r"`sink` of step 'flow\.out' must be a sink: .*FixedPartitionedSink"),
        (StdOutSink, "got the class `StdOutSink` itself: make an object of it"),
        (TestingSource([]), r"`TestingSource` is a source: it belongs in `op\.input`"),
    ],
)
def test_what_is_not_a_sink_is_refused(bad: object, message: str) -> None:
    """The error comes while the flow is built, and says what would be right."""
    s = op.input("in", Dataflow("flow"), TestingSource([1]))
    with pytest.raises(TypeError, match=message):
        op.output("out", s, bad)  # type: ignore[arg-type]
