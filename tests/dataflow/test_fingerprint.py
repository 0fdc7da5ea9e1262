"""The fingerprint: the same for the same structure, another for another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

import engine.operators as op
from engine.dataflow import Dataflow, Stream, fingerprint, operator
from engine.testing import TestingSink, TestingSource


def build(middle: Callable[[Stream[tuple[str, int]]], Stream[object]], flow_id: str = "f") -> str:
    """The fingerprint of a flow with the given steps between input and output."""
    flow = Dataflow(flow_id)
    s = op.input("in", flow, TestingSource([("a", 1)]))
    op.output("out", middle(s), TestingSink([]))
    return fingerprint(flow)


def sums(step_id: str = "sum", start: int = 0) -> Callable[[Stream], Stream]:
    return lambda s: op.fold_final(step_id, s, lambda: start, lambda total, x: total + x)


def test_it_is_the_same_for_the_same_flow() -> None:
    """Building the flow anew gives the same value."""
    assert build(sums()) == build(sums())


def test_it_is_the_same_in_another_process() -> None:
    """It doesn't depend on this process's hash seed."""
    code = (
        "import engine.operators as op\n"
        "from engine.dataflow import Dataflow, fingerprint\n"
        "from engine.testing import TestingSource\n"
        "flow = Dataflow('f')\n"
        "s = op.input('in', flow, TestingSource([]))\n"
        "op.merge('m', op.map('a', s, str), op.map('b', s, str))\n"
        "print(fingerprint(flow))\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env=None, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1] != ""


def test_functions_and_parameters_do_not_count() -> None:
    """Another function in the same place leaves it as it is: state stays usable."""
    assert build(sums(start=0)) == build(sums(start=1))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda s: s, id="a step gone"),
        pytest.param(sums("total"), id="a step renamed"),
        pytest.param(lambda s: op.map("m", sums()(s), str), id="a step more"),
        pytest.param(
            lambda s: op.reduce_final("sum", s, lambda x, y: x + y), id="another operator"
        ),
        pytest.param(
            lambda s: sums()(op.merge("both", s, s)),
            id="a step before",
        ),
    ],
)
def test_structure_counts(other: Callable[[Stream], Stream]) -> None:
    """A step that comes, goes, is renamed or becomes another operator changes it."""
    assert build(sums()) != build(other)


def test_the_flow_id_counts() -> None:
    """The same steps under another flow id are another flow."""
    assert build(sums(), "f") != build(sums(), "g")


def test_edges_count() -> None:
    """The same steps connected otherwise are another flow."""

    def connected(*, swapped: bool) -> str:
        flow = Dataflow("f")
        one = op.input("one", flow, TestingSource([("a", 1)]))
        two = op.input("two", flow, TestingSource([("a", 2)]))
        sides = (two, one) if swapped else (one, two)
        op.output("out", op.join("j", *sides), TestingSink([]))
        return fingerprint(flow)

    assert connected(swapped=False) != connected(swapped=True)


def test_the_inside_of_the_engines_operators_does_not_count() -> None:
    """A step of the engine is one step, whatever it is composed of in this release."""
    flow = Dataflow("f")
    s = op.input("in", flow, TestingSource([("a", 1)]))
    op.stateful_map("s", s, lambda state, value: (state, value))
    before = fingerprint(flow)
    flow.substeps[1].substeps.clear()
    assert fingerprint(flow) == before


def test_the_inside_of_a_users_operator_counts() -> None:
    """A user's own composition is what it is made of."""

    def with_inner(name: str) -> str:
        @operator
        def mine(step_id: str, up: Stream[tuple[str, int]]) -> Stream[str]:
            return op.map(name, up, str)

        return build(lambda s: mine("mine", s))

    assert with_inner("a") == with_inner("a") != with_inner("b")


def test_modules_of_the_engine_do_not_count() -> None:
    """An operator is known by its public name, so moving it to another file disowns no state."""
    flow = Dataflow("f")
    s = op.input("in", flow, TestingSource([("a", 1)]))
    op.map("m", s, str)
    assert [step.op_type for step in flow.substeps] == [
        "engine.operators.input",
        "engine.operators.map",
    ]
