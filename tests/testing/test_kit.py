"""The small tools of the test kit, and its entry points."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import engine.operators as op
import engine.testing as kit
from engine.connectors import StatelessSourcePartition
from engine.dataflow import Dataflow
from engine.errors import EngineRuntimeError, FlowError
from engine.testing import (
    TestingSink,
    TestingSource,
    TimeTestingGetter,
    poll_next_batch,
    run_main,
)


def flow_to(out: list[Any], items: Iterable[Any] = (1, 2, 3)) -> Dataflow:
    flow = Dataflow("flow")
    op.output("out", op.input("in", flow, TestingSource(items)), TestingSink(out))
    return flow


def test_the_kit_is_what_its_users_know():
    """Names that tests are written with; none may vanish."""
    assert set(kit.__all__) == {
        "TestingSink", "TestingSource", "TimeTestingGetter", "cluster_main", "ffwd_iter",
        "poll_next_batch", "run_main",
        "run_tasks",
    }  # fmt: skip
    assert all(hasattr(kit, name) for name in kit.__all__)


def test_the_clock_moves_only_when_told():
    """By as much as it is told."""
    clock = TimeTestingGetter(datetime(2024, 1, 1, tzinfo=UTC))
    before = clock.get()
    assert clock.get() == before
    clock.advance(timedelta(hours=1))
    assert clock.get() - before == timedelta(hours=1)


class Lazy(StatelessSourcePartition[int]):
    """Gives nothing a few times."""

    def __init__(self, empty: int) -> None:
        self.empty = empty

    def next_batch(self) -> Iterable[int]:
        self.empty -= 1
        if self.empty < -1:
            raise StopIteration
        return iter([] if self.empty >= 0 else [7])


def test_poll_next_batch_is_patient():
    """It asks until there are records, and gives them as a list."""
    part = Lazy(3)
    assert poll_next_batch(part) == [7]
    assert part.empty == -1


def test_poll_next_batch_hears_of_the_end():
    """Which is no reason to go on."""
    part = Lazy(0)
    poll_next_batch(part)
    with pytest.raises(StopIteration):
        poll_next_batch(part)


def test_poll_next_batch_gives_up_in_time():
    """With an error that says how long it waited."""
    with pytest.raises(TimeoutError, match="no records within 0:00:00"):
        poll_next_batch(Lazy(10**6), timeout=timedelta(0))


def test_a_sink_fills_its_list_and_never_clears_it():
    """Two runs, or two outputs, add up."""
    out: list[int] = []
    run_main(flow_to(out))
    run_main(flow_to(out))
    assert out == [1, 2, 3] * 2


# Entry points


def test_the_error_of_a_run_is_a_runtime_error_whose_causes_end_in_the_users():
    """So that tests written for Bytewax catch it."""
    flow = Dataflow("flow")
    s = op.map("bad", op.input("in", flow, TestingSource([0])), lambda x: 1 / x)
    op.output("out", s, TestingSink([]))
    with pytest.raises(RuntimeError) as caught:
        run_main(flow)
    assert isinstance(caught.value, EngineRuntimeError)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_flow_that_can_not_run_is_a_value_error():
    """And nothing was opened."""
    with pytest.raises(FlowError, match="no input"):
        run_main(Dataflow("flow"))


@pytest.mark.parametrize("items", [[1, TestingSource.EOF(), 2], [1, TestingSource.ABORT(), 2]])
def test_eof_and_abort_end_a_run_without_an_error(items: list[Any]):
    """What came before them is written."""
    out: list[int] = []
    run_main(flow_to(out, items))
    assert out == [1]
