"""The `operator` decorator: how users compose steps of their own."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import engine.operators as op
from engine.dataflow import Dataflow, KeyedStream, MultiPort, Stream, operator
from engine.testing import TestingSink, TestingSource, run_main


@operator
def add_then_double(step_id: str, up: Stream[int], n: int = 1) -> Stream[int]:
    added = op.map("add", up, lambda x: x + n)
    return op.map("double", added, lambda x: x * 2)


@dataclass(frozen=True)
class Split:
    low: Stream[int]
    high: Stream[int]
    limit: int


@operator
def split(step_id: str, up: Stream[int], limit: int) -> Split:
    """Divide by size."""
    out = op.branch("branch", up, lambda x: x < limit)
    return Split(out.trues, out.falses, limit)


@operator
def counted(step_id: str, flow: Dataflow, count: int) -> Stream[int]:
    numbers = op.input("numbers", flow, TestingSource(range(count)))
    return op.map("next", numbers, lambda x: x + 1)


@operator
def sum_of_sides(step_id: str, **sides: KeyedStream[int]) -> KeyedStream[int]:
    joined = op.join("join", *sides.values())
    return op.map_value("sum", joined, sum)


@operator
def discard(step_id: str, up: Stream[int]) -> None:
    op.output("drop", up, TestingSink([]))


def test_a_composed_step_runs_and_nests() -> None:
    """An operator made of two is one step with two substeps, and runs as they do."""
    flow, out = Dataflow("flow"), []
    s = op.input("in", flow, TestingSource([1, 2]))
    op.output("out", add_then_double("calc", s, n=10), TestingSink(out))
    run_main(flow)
    assert out == [22, 24]
    step = flow.substeps[1]
    assert step.step_id == "flow.calc"
    assert step.name == "add_then_double"
    assert step.params == {"n": 10}
    assert [inner.step_id for inner in step.substeps] == ["flow.calc.add", "flow.calc.double"]


def test_defaults_are_parameters() -> None:
    """A default value works, and is kept with the step."""
    flow, out = Dataflow("flow"), []
    s = op.input("in", flow, TestingSource([1]))
    op.output("out", add_then_double("calc", s), TestingSink(out))
    run_main(flow)
    assert out == [4]
    assert flow.substeps[1].params == {"n": 1}


def test_composed_operators_nest_in_each_other() -> None:
    """Ids grow with each level, and streams of the outer level reach the inner one."""

    @operator
    def twice(step_id: str, up: Stream[int]) -> Stream[int]:
        return add_then_double("second", add_then_double("first", up))

    flow, out = Dataflow("flow"), []
    s = op.input("in", flow, TestingSource([1]))
    op.output("out", twice("calc", s), TestingSink(out))
    run_main(flow)
    assert out == [10]
    inner = [leaf.step_id for step in flow.substeps[1].substeps for leaf in step.substeps]
    assert inner == [
        "flow.calc.first.add",
        "flow.calc.first.double",
        "flow.calc.second.add",
        "flow.calc.second.double",
    ]


def test_a_dataclass_of_streams_may_hold_other_things() -> None:
    """Fields that aren't streams are handed on and make no ports."""
    flow, low, high = Dataflow("flow"), [], []
    parts = split("split", op.input("in", flow, TestingSource([1, 5])), 3)
    op.output("low", parts.low, TestingSink(low))
    op.output("high", parts.high, TestingSink(high))
    run_main(flow)
    assert (low, high, parts.limit) == ([1], [5], 3)
    assert flow.substeps[1].dwn_names == ["low", "high"]


def test_an_operator_may_bring_its_own_input() -> None:
    """One that takes the flow adds its inner input under itself and not to the flow."""
    flow, out = Dataflow("flow"), []
    op.output("out", counted("count", flow, 3), TestingSink(out))
    run_main(flow)
    assert out == [1, 2, 3]
    assert [step.step_id for step in flow.substeps] == ["flow.count", "flow.out"]
    assert [s.step_id for s in flow.substeps[0].substeps] == [
        "flow.count.numbers",
        "flow.count.next",
    ]


def test_two_with_their_own_input_may_meet() -> None:
    """Streams of inner inputs belong to the outer flow once they come out."""
    flow, out = Dataflow("flow"), []
    both = op.merge("both", counted("a", flow, 1), counted("b", flow, 2))
    op.output("out", both, TestingSink(out))
    run_main(flow)
    assert sorted(out) == [1, 1, 2]


def test_streams_as_keyword_arguments() -> None:
    """``**sides`` is one multi-port whose streams have the keywords as names."""
    flow, out = Dataflow("flow"), []
    left = op.input("left", flow, TestingSource([("k", 1)]))
    right = op.input("right", flow, TestingSource([("k", 2)]))
    op.output("out", sum_of_sides("sum", left=left, right=right), TestingSink(out))
    run_main(flow)
    assert out == [("k", 3)]
    port = flow.substeps[2].ups["sides"]
    assert isinstance(port, MultiPort)
    assert port.streams == {"left": left.stream_id, "right": right.stream_id}


def test_an_operator_that_gives_nothing_is_an_end() -> None:
    """A composition that returns None has no outputs."""
    flow = Dataflow("flow")
    s = op.input("in", flow, TestingSource([1]))
    assert discard("end", s) is None  # type: ignore[func-returns-value]
    assert flow.substeps[1].dwn_names == []
    run_main(flow)


def test_the_upstream_itself_may_come_out() -> None:
    """An operator that only watches may return the stream that it was given."""

    @operator
    def watched(step_id: str, up: Stream[int]) -> Stream[int]:
        op.inspect("look", up, lambda _step_id, item: seen.append(item))
        return up

    flow, out, seen = Dataflow("flow"), [], []
    s = watched("watched", op.input("in", flow, TestingSource([1, 2])))
    op.output("out", s, TestingSink(out))
    run_main(flow)
    assert out == seen == [1, 2]


def test_the_first_parameter_must_be_the_step_id() -> None:
    """The decorator refuses a function that couldn't be called as an operator."""
    with pytest.raises(TypeError, match="first parameter of operator `.*wrong` must be `step_id`"):

        @operator
        def wrong(up: Stream[int]) -> Stream[int]:
            return up


def test_a_builder_must_give_streams() -> None:
    """A builder that returns something else is refused, saying what it gave."""

    @operator
    def wrong(step_id: str, up: Stream[int]) -> Stream[int]:
        return [up]  # type: ignore[return-value]

    s = op.input("in", Dataflow("flow"), TestingSource([1]))
    with pytest.raises(TypeError, match=r"`.*wrong` \(step 'flow.w'\) must return .* `list`"):
        wrong("w", s)


def test_a_stream_hidden_in_a_list_is_refused() -> None:
    """A stream of the outer scope that comes in within a list can't meet one of the inner."""

    @operator
    def merged(step_id: str, up: Stream[int], others: list[Stream[int]]) -> Stream[int]:
        return op.merge("merge", up, *others)

    flow = Dataflow("flow")
    one = op.input("one", flow, TestingSource([1]))
    two = op.input("two", flow, TestingSource([2]))
    with pytest.raises(ValueError, match="inconsistent stream scoping"):
        merged("m", one, [two])


def test_a_stream_from_a_closure_is_refused() -> None:
    """The same for a stream that the builder takes from around itself."""
    flow = Dataflow("flow")
    one = op.input("one", flow, TestingSource([1]))
    two = op.input("two", flow, TestingSource([2]))

    @operator
    def merged(step_id: str, up: Stream[int]) -> Stream[int]:
        return op.merge("merge", up, two)

    with pytest.raises(ValueError, match="inconsistent stream scoping"):
        merged("m", one)


def test_a_decorated_operator_keeps_its_face() -> None:
    """Name, docstring and module are those of the builder."""
    assert split.__name__ == "split"
    assert split.__doc__ == "Divide by size."
    assert split.__module__ == __name__


def test_wrong_arguments_name_the_operator() -> None:
    """A missing argument is a `TypeError` as for any function, and says of which."""
    s = op.input("in", Dataflow("flow"), TestingSource([1]))
    expected = (
        r"^operator `split`: missing a required argument: 'limit'; "
        r"its arguments are: step_id, up, limit$"
    )
    with pytest.raises(TypeError, match=expected):
        split("s", s)  # type: ignore[call-arg]
