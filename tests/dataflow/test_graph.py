"""Building a graph: names, ids, ports, and the mistakes that are refused while it is built."""

from __future__ import annotations

import pytest

import engine.operators as op
from engine.dataflow import Dataflow, MultiPort, SinglePort, Stream, f_repr
from engine.testing import TestingSink, TestingSource


@pytest.fixture
def flow() -> Dataflow:
    return Dataflow("flow")


@pytest.fixture
def numbers(flow: Dataflow) -> Stream[int]:
    return op.input("in", flow, TestingSource([1, 2, 3]))


@pytest.mark.parametrize("bad", ["a.b", ".", "", "a\0b"])
def test_flow_id_must_be_a_plain_name(bad: str) -> None:
    """A flow id with a dot, a NUL, or nothing in it is refused."""
    with pytest.raises(ValueError, match="flow id"):
        Dataflow(bad)


def test_flow_id_must_be_text() -> None:
    """A flow id that isn't a `str` is refused with the type that it has."""
    with pytest.raises(TypeError, match=r"flow id must be a `str`; got 5 of type `int`"):
        Dataflow(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["a.b", "", "a\0b"])
def test_step_id_must_be_a_plain_name(numbers: Stream[int], bad: str) -> None:
    """A step id that could not be part of a dotted id is refused, naming the operator."""
    with pytest.raises(ValueError, match="step id of operator `map`"):
        op.map(bad, numbers, str)


def test_step_id_must_be_text(numbers: Stream[int]) -> None:
    """Arguments in the wrong order are refused with a message that says what must be text."""
    with pytest.raises(TypeError, match="step id of operator `map` must be a `str`"):
        op.map(numbers, "step", str)  # type: ignore[call-overload, arg-type]


def test_step_ids_must_differ(numbers: Stream[int]) -> None:
    """The second step of the same name in one scope is refused by its full id."""
    op.map("same", numbers, str)
    with pytest.raises(ValueError, match=r"step id 'flow\.same' already exists"):
        op.map("same", numbers, str)


def test_a_failed_step_leaves_no_trace(flow: Dataflow, numbers: Stream[int]) -> None:
    """A step that was refused is not in the graph, and its name is free."""
    with pytest.raises(TypeError):
        op.map("step", numbers, None)  # type: ignore[arg-type]
    op.map("step", numbers, str)
    assert [step.step_id for step in flow.substeps] == ["flow.in", "flow.step"]


def test_what_is_not_a_stream_is_refused(numbers: Stream[int]) -> None:
    """A list where a stream must be is refused by parameter, operator and step."""
    with pytest.raises(TypeError, match=r"`up` of operator `map` \(step 'm'\) must be a `Stream`"):
        op.map("m", [1, 2], str)  # type: ignore[arg-type]


def test_an_operators_whole_result_is_refused_with_the_names_of_its_streams(
    numbers: Stream[int],
) -> None:
    """Forgetting to choose an output of `branch` says which there are."""
    both = op.branch("b", numbers, lambda x: x > 1)
    with pytest.raises(TypeError, match=r"forget to unpack it\? Its streams are: trues, falses"):
        op.map("m", both, str)  # type: ignore[arg-type]


def test_none_from_an_output_is_refused(numbers: Stream[int]) -> None:
    """Going on after `output`, which gives nothing, is refused."""
    end = op.output("out", numbers, TestingSink([]))  # type: ignore[func-returns-value]
    with pytest.raises(TypeError, match="must be a `Stream`; got None"):
        op.map("m", end, str)  # type: ignore[arg-type]


def test_one_bad_stream_among_many_is_refused(numbers: Stream[int]) -> None:
    """Each of the streams given to `merge` is checked."""
    with pytest.raises(TypeError, match="`ups` of operator `merge`"):
        op.merge("m", numbers, [numbers])  # type: ignore[call-overload]


def test_a_step_belongs_to_one_flow(numbers: Stream[int]) -> None:
    """Streams of two dataflows can't meet in a step."""
    other = op.input("in", Dataflow("other"), TestingSource([1]))
    with pytest.raises(ValueError, match="two dataflows, 'flow' and 'other'"):
        op.merge("m", numbers, other)


def test_a_step_needs_a_flow() -> None:
    """An operator without any stream or flow is refused."""
    with pytest.raises(TypeError, match="neither a stream nor a dataflow"):
        op.merge("m")
    with pytest.raises(TypeError, match="neither a stream nor a dataflow"):
        op.input("in", "flow", TestingSource([]))  # type: ignore[arg-type]


def test_input_makes_a_port_and_a_stream(flow: Dataflow, numbers: Stream[int]) -> None:
    """An input step has no upstream and one output, whose stream names it."""
    [step] = flow.substeps
    assert step.ups_names == []
    assert step.downs == {"down": SinglePort("flow.in.down", numbers.stream_id)}
    assert numbers.stream_id == "flow.in.down"
    assert numbers.flow() is flow


def test_branch_makes_a_port_per_field(flow: Dataflow, numbers: Stream[int]) -> None:
    """An operator that returns a dataclass has an output per field."""
    out = op.branch("b", numbers, lambda x: x > 1)
    assert flow.substeps[1].dwn_names == ["trues", "falses"]
    assert [out.trues.stream_id, out.falses.stream_id] == ["flow.b.trues", "flow.b.falses"]


def test_merge_has_one_port_of_many_streams(flow: Dataflow, numbers: Stream[int]) -> None:
    """Streams given as ``*ups`` are one multi-port, in argument order."""
    more = op.map("more", numbers, str)
    op.merge("m", more, numbers)
    port = flow.substeps[-1].ups["ups"]
    assert isinstance(port, MultiPort)
    assert port.stream_ids == (more.stream_id, numbers.stream_id)


def test_output_is_an_end(flow: Dataflow, numbers: Stream[int]) -> None:
    """An output step has an upstream, no downstream, and keeps its sink as a parameter."""
    sink = TestingSink([])
    op.output("out", numbers, sink)
    step = flow.substeps[-1]
    assert step.ups_names == ["up"]
    assert step.dwn_names == []
    assert step.params == {"sink": sink}


def test_parameters_include_defaults(flow: Dataflow, numbers: Stream[int]) -> None:
    """A step knows all of its parameters, also those that were left out."""
    keyed = op.key_on("k", numbers, str)
    op.join("j", keyed, keyed, insert_mode="first")
    params = flow.substeps[-1].params
    assert params["insert_mode"] == "first"
    assert params["emit_mode"] == "complete"
    assert params["ttl"] is None


def test_composed_steps_have_nested_ids(flow: Dataflow, numbers: Stream[int]) -> None:
    """What an operator is made of stands under it, with dotted ids."""
    keyed = op.key_on("k", numbers, str)
    op.stateful_map("s", keyed, lambda state, value: (state, value))
    ids = []
    [step] = flow.substeps[2:]
    while True:
        ids.append(step.step_id)
        if not step.substeps:
            break
        [step] = step.substeps
    assert ids == [
        "flow.s",
        "flow.s.stateful_flat_map",
        "flow.s.stateful_flat_map.stateful",
        "flow.s.stateful_flat_map.stateful.stateful_batch",
    ]


def test_the_same_name_may_stand_in_two_scopes(numbers: Stream[int]) -> None:
    """Inner names are judged within their step, so the same operator can be used twice."""
    op.map("a", numbers, str)
    op.map("b", numbers, str)


def test_then_is_the_same_as_calling_the_operator() -> None:
    """`Stream.then` adds the same step with the same ids and parameters."""

    source = TestingSource([1])

    def steps(*, chained: bool) -> list[object]:
        flow = Dataflow("flow")
        s = op.input("in", flow, source)
        if chained:
            s.then(op.map, "m", str).then(op.filter, "f", predicate=bool)
        else:
            op.filter("f", op.map("m", s, str), predicate=bool)
        return [(step.op_type, step.step_id, step.ups, step.params) for step in flow.substeps]

    assert steps(chained=True) == steps(chained=False)


def test_streams_are_values(numbers: Stream[int]) -> None:
    """Handles on the same stream are equal, and can't be changed."""
    assert numbers == Stream(numbers.stream_id, numbers._scope)
    with pytest.raises(AttributeError):
        numbers.stream_id = "else"  # type: ignore[misc]


def test_names_of_functions_are_readable() -> None:
    """A function is shown with its module, its name and where it stands."""
    shown = f_repr(test_names_of_functions_are_readable)
    assert "test_names_of_functions_are_readable at " in shown
    assert f"{__file__}:" in shown
