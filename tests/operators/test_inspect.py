"""`inspect`, `inspect_debug` and `raises`."""

from __future__ import annotations

from datetime import timedelta

import pytest

import engine.operators as op
from engine.dataflow import Dataflow, Stream, operator
from engine.errors import EngineRuntimeError
from engine.runtime import RunOptions, run_flow
from engine.testing import TestingSource, run_main
from tests.operators.flows import emitted, root_cause


def inspected(name: str, *, kernels: bool = True, **kwargs: object) -> Dataflow:
    flow = Dataflow("flow")
    s = op.input("in", flow, TestingSource(["a", "b"]))
    getattr(op, name)("look", s, **kwargs)
    run_flow(flow, RunOptions(kernels=kernels, epoch_interval=timedelta(0)))
    return flow


def test_inspect_prints_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    """The step's full id and the record's repr come on a line each."""
    inspected("inspect")
    assert capsys.readouterr().out == "flow.look: 'a'\nflow.look: 'b'\n"


def test_inspect_debug_prints_epoch_and_worker(capsys: pytest.CaptureFixture[str]) -> None:
    """Epochs count from 1, and with an interval of zero each batch has its own."""
    inspected("inspect_debug")
    assert capsys.readouterr().out == "flow.look W0 @1: 'a'\nflow.look W0 @2: 'b'\n"


@pytest.mark.parametrize("kernels", [True, False])
def test_inspect_shows_the_users_step_id(kernels: bool) -> None:
    """Kernel and composition show the id of the user's step, not of one inside it."""
    seen: list[tuple[str, str]] = []
    inspected("inspect", kernels=kernels, inspector=lambda *args: seen.append(args))
    assert seen == [("flow.look", "a"), ("flow.look", "b")]


def test_inspect_within_a_users_operator_shows_the_nested_id() -> None:
    """The id is fully qualified."""

    @operator
    def watched(step_id: str, up: Stream[str]) -> Stream[str]:
        return op.inspect("look", up, lambda step_id, _item: seen.append(step_id))

    seen: list[str] = []
    emitted(lambda s: watched("mine", s), ["a"])
    assert seen == ["flow.mine.look"]


@pytest.mark.parametrize("name", ["inspect", "inspect_debug"])
def test_inspecting_passes_records_on(name: str) -> None:
    """What was shown goes on unchanged, in order."""
    out = emitted(lambda s: getattr(op, name)("look", s, lambda *_args: "ignored"), [1, None, 2])
    assert out == [1, None, 2]


def test_raises_lets_an_empty_stream_be() -> None:
    """Nothing comes, nothing happens; it counts as an output."""
    flow = Dataflow("flow")
    op.raises("never", op.input("in", flow, TestingSource([])))
    run_main(flow)


def test_raises_names_step_and_record() -> None:
    """The first record ends the run with a `RuntimeError`."""
    flow = Dataflow("flow")
    op.raises("never", op.input("in", flow, TestingSource(["oops"])))
    with pytest.raises(EngineRuntimeError, match=r"flow\.never") as caught:
        run_main(flow)
    error = root_cause(caught.value)
    assert type(error) is RuntimeError
    assert str(error) == "step 'flow.never' must not get any record; got 'oops' of type `str`"
