"""Operators in a module without ``from __future__ import annotations``: real types, not text."""

import pytest

import engine.operators as op
from engine.dataflow import Dataflow, KeyedStream, Stream, operator
from engine.testing import TestingSink, TestingSource, run_main


@operator
def summed(step_id: str, up: KeyedStream[int]) -> Stream[int]:
    total = op.reduce_final("sum", up, lambda x, y: x + y)
    return op.key_rm("unkey", total)


@operator
def gathered(step_id: str, *ups: Stream[int]) -> Stream[int]:
    return op.merge("merge", *ups)


def test_real_annotations_work_like_text() -> None:
    """A composed operator runs the same with annotations that are objects."""
    flow, out = Dataflow("flow"), []
    one = op.input("one", flow, TestingSource([("a", 1), ("a", 2)]))
    two = op.input("two", flow, TestingSource([("a", 3)]))
    op.output("out", summed("sum", gathered("all", one, two)), TestingSink(out))
    run_main(flow)
    assert out == [6]


@pytest.mark.parametrize("call", [lambda: summed("s", [1]), lambda: gathered("g", [1])])
def test_streams_are_checked_by_real_annotations(call) -> None:
    """What isn't a stream is refused here too."""
    with pytest.raises(TypeError, match="must be a `Stream`"):
        call()
