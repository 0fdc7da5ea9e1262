"""`branch`, `merge` and `redistribute`."""

from __future__ import annotations

from collections import Counter

import pytest

import engine.operators as op
from engine.dataflow import Dataflow
from engine.errors import EngineRuntimeError, UserCodeError
from engine.testing import TestingSink, TestingSource, run_main
from engine.testing.sim import SimOptions, simulate
from tests.operators.flows import emitted, emitted_by_all


def test_branch_divides() -> None:
    """Every record goes to one of the two, each in order."""
    flow, trues, falses = Dataflow("flow"), [], []
    s = op.input("in", flow, TestingSource([1, 5, 2, 6], batch_size=3))
    out = op.branch("b", s, lambda x: x < 3)
    op.output("trues", out.trues, TestingSink(trues))
    op.output("falses", out.falses, TestingSink(falses))
    run_main(flow)
    assert (trues, falses) == ([1, 2], [5, 6])


def test_one_branch_may_be_left_unused() -> None:
    """What goes down a branch that nobody uses is dropped."""
    assert emitted(lambda s: op.branch("b", s, lambda x: x < 3).falses, [1, 5]) == [5]


@pytest.mark.parametrize("bad", [1, None, ""])
def test_a_branch_predicate_must_give_a_bool(bad: object) -> None:
    """`branch` refuses what is only like a bool."""

    def predicate(_x: int) -> object:
        return bad

    with pytest.raises(EngineRuntimeError, match=r"flow\.b") as caught:
        emitted(lambda s: op.branch("b", s, predicate).trues, [1])
    error = caught.value.__cause__
    assert isinstance(error, UserCodeError)
    assert error.function is predicate


def test_merge_keeps_the_order_of_each_stream() -> None:
    """All records come out, those of one stream in their order."""
    out = emitted(lambda a, b, c: op.merge("m", a, b, c), [1, 2], [10, 20], [100])
    assert Counter(out) == Counter([1, 2, 10, 20, 100])
    assert out.index(1) < out.index(2)
    assert out.index(10) < out.index(20)


def test_merge_of_one_stream() -> None:
    """One stream is enough."""
    assert emitted(lambda s: op.merge("m", s), [1, 2]) == [1, 2]


def test_merge_of_a_stream_with_itself() -> None:
    """The same stream twice gives each record twice."""
    assert sorted(emitted(lambda s: op.merge("m", s, s), [1, 2])) == [1, 1, 2, 2]


def test_merge_of_a_stream_with_what_became_of_it() -> None:
    """A stream may meet its own later form, behind a keyed step too."""

    def build(s):
        return op.merge("m", s, op.stateful_map("n", s, lambda n, _v: ((n or 0) + 1, (n or 0) + 1)))

    for workers in (1, 2):
        out = emitted_by_all(build, [("a", 10), ("a", 20)], workers=workers)
        assert sorted(out) == [("a", 1), ("a", 2), ("a", 10), ("a", 20)]


def test_redistribute_on_one_worker_changes_nothing() -> None:
    """Alone there is nobody to deal to, so order stays."""
    assert emitted(lambda s: op.redistribute("r", s), [3, 1, 2]) == [3, 1, 2]


def test_redistribute_uses_all_workers() -> None:
    """Records of a source that one worker reads reach the others, each record once."""
    flow, seen = Dataflow("flow"), []
    s = op.input("in", flow, TestingSource(range(90), batch_size=10))
    s = op.redistribute("r", s)
    op.inspect_debug("look", s, lambda _id, item, _epoch, worker: seen.append((item, worker)))
    simulate(flow, 1, SimOptions(workers=3))
    assert sorted(item for item, _ in seen) == list(range(90))
    assert set(Counter(worker for _, worker in seen)) == {0, 1, 2}
