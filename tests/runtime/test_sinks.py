"""What the runtime asks of sinks, and what it refuses from them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

import engine.operators as op
from engine.connectors import DynamicSink, StatelessSinkPartition
from engine.dataflow import Dataflow
from engine.errors import ConnectorError, EngineRuntimeError, UserCodeError
from engine.runtime import deal_partitions, plan
from engine.testing import TestingSource
from tests.runtime.scripted import Log, PartitionedLogSink, ScriptedSource, run


def write(items: list[Any], sink: Any) -> None:
    """Run a list into a sink."""
    flow = Dataflow("flow")
    op.output("out", op.input("in", flow, TestingSource(items)), sink)
    run(flow)


def refusal(items: list[Any], sink: Any) -> EngineRuntimeError:
    """The error of such a run."""
    with pytest.raises(EngineRuntimeError) as caught:
        write(items, sink)
    assert caught.value.step_id == "flow.out"
    return caught.value


@pytest.mark.parametrize("record", [5, "ab", ("a", 1, 2), ["a", 1]])
def test_a_partitioned_sink_needs_pairs(record: Any):
    """Without a key there is no partition."""
    error = refusal([("0", 1), record], PartitionedLogSink(["a", "b"], []))
    assert isinstance(error.__cause__, UserCodeError)
    assert "2-tuples from upstream" in str(error)
    assert error.record == record


@pytest.mark.parametrize("key", [None, 1.5, True])
@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_a_partitioned_sink_checks_keys(key: Any, names: list[str]):
    """However many partitions there are to choose from."""
    error = refusal([(key, 1)], PartitionedLogSink(names, []))
    assert isinstance(error.__cause__, UserCodeError)


def test_a_routing_function_that_fails_is_blamed_with_the_key():
    """It is user code like any other."""
    error = refusal([("0", 1), ("x", 2)], PartitionedLogSink(["a", "b"], []))
    assert isinstance(error.__cause__, ValueError)
    assert error.key == "x"


def test_a_sink_without_partitions_is_refused_before_anything_is_read():
    """Its records would have nowhere to go."""
    log: Log = []
    flow = Dataflow("flow")
    source = ScriptedSource({"in": [["a"]]}, log)
    op.output("out", op.input("in", flow, source), PartitionedLogSink([], log))
    with pytest.raises(EngineRuntimeError, match="the sink of step 'flow.out' has no partitions"):
        run(flow)
    assert log == []


class _Built(DynamicSink[Any]):
    def __init__(self, part: Any) -> None:
        self._part = part

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Any:
        return self._part


@pytest.mark.parametrize("built", [None, [], "part"])
def test_what_is_built_must_be_a_partition(built: Any):
    """A forgotten `return`, say."""
    error = refusal([], _Built(built))
    assert isinstance(error.__cause__, ConnectorError)
    assert "must be a partition; got" in str(error)


@pytest.mark.parametrize("rows", [None, "row", b"row", [1], ["row"], (b"row",)])
def test_prepared_rows_must_be_a_list_of_bytes(rows: Any):
    """They are kept in a file later on."""

    class Part(StatelessSinkPartition[Any]):
        def write_batch(self, items: list[Any]) -> None:
            pass

        def prepare(self, epoch: int) -> Any:
            return rows

    error = refusal([1], _Built(Part()))
    assert isinstance(error.__cause__, ConnectorError)
    assert "must return a list of `bytes`; got" in str(error)


def test_a_batch_belongs_to_the_sink_that_got_it():
    """It may keep the list, or change it; other readers of the stream have one of their own."""
    kept: list[list[int]] = []

    class Part(StatelessSinkPartition[int]):
        def write_batch(self, items: list[int]) -> None:
            kept.append(items)
            items.append(-1)

    flow = Dataflow("flow")
    s = op.input("in", flow, TestingSource([1, 2, 3], batch_size=2))
    op.output("one", s, _Built(Part()))
    op.output("two", op.flat_map_batch("same", s, lambda batch: batch), _Built(Part()))
    run(flow)
    assert kept == [[1, 2, -1], [1, 2, -1], [3, -1], [3, -1]]


# Dealing partitions


def dealt(workers: int, *sources: Any) -> dict[str, dict[str, int]]:
    """Which worker has which partition of the inputs."""
    flow = Dataflow("flow")
    streams = [op.input(f"in{i}", flow, source) for i, source in enumerate(sources)]
    op.output("out", op.merge("merge", *streams), PartitionedLogSink(["x", "y", "z"], []))
    deal = deal_partitions(plan(flow, workers))
    return {**deal.sources, **deal.sinks}  # type: ignore[dict-item]


def test_partitions_are_dealt_in_the_order_of_their_names():
    """The same on all workers, however a connector lists them."""
    source = ScriptedSource({"c": [], "a": [], "b": []}, [])
    assert dealt(2, source) == {
        "flow.in0": {"a": 0, "b": 1, "c": 0},
        "flow.out": {"x": 0, "y": 1, "z": 0},
    }


def test_sources_of_one_partition_do_not_all_go_to_the_first_worker():
    """Dealing goes on from source to source, to within one on all workers."""
    deal = dealt(4, *(TestingSource([]) for _ in range(10)))
    counts = Counter(
        worker for step, parts in deal.items() if step != "flow.out" for worker in parts.values()
    )
    assert sorted(counts.values()) == [2, 2, 3, 3]
