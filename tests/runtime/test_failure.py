"""What the error of a run says: which step, on which record, and why."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Stream
from engine.errors import EngineRuntimeError, UserCodeError
from engine.runtime import explained
from engine.runtime._failure import blaming, name_of
from engine.testing import run_main
from tests.runtime.graphs import flow_of


def failure(
    items: list[Any], build: Callable[[Stream[Any]], Stream[Any]], batch_size: int = 1
) -> EngineRuntimeError:
    """The error of a run."""
    flow, _ = flow_of(items, build, batch_size=batch_size)
    with pytest.raises(EngineRuntimeError) as caught:
        run_main(flow)
    return caught.value


def mapped(fn: Callable[[Any], Any]) -> Callable[[Stream[Any]], Stream[Any]]:
    return lambda stream: op.map("bad", stream, fn)


def refuse(_record: Any) -> Any:
    raise ValueError("no")


class Shy:
    """A record that can't be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("don't look")


def test_a_record_that_can_not_be_shown_does_not_hide_the_error():
    """A `repr` that raises is said in its place."""
    error = failure([Shy()], mapped(refuse))
    shown = "<Shy whose repr raises RuntimeError>"
    assert str(error) == f"step 'flow.bad' failed on {shown}: ValueError: no"
    assert isinstance(error.record, Shy)


@pytest.mark.parametrize("kind", ["filter", "flat_map", "flat_map_batch", "flatten", "key_on"])
def test_a_result_that_can_not_be_shown_does_not_hide_what_is_wrong_with_it(kind: str):
    """The refusal of a wrong result names its type all the same."""
    steps: dict[str, Callable[[Stream[Any]], Stream[Any]]] = {
        "filter": lambda s: op.filter("bad", s, lambda x: x),
        "flat_map": lambda s: op.flat_map("bad", s, lambda x: x),
        "flat_map_batch": lambda s: op.flat_map_batch("bad", s, lambda xs: xs[0]),
        "flatten": lambda s: op.flatten("bad", s),
        "key_on": lambda s: op.key_on("bad", s, lambda x: x),
    }
    error = failure([Shy()], steps[kind])
    assert isinstance(error.__cause__, UserCodeError)
    assert "<Shy whose repr raises RuntimeError> of type `Shy`" in str(error)


def test_a_huge_record_is_shortened():
    """The message stays readable; the whole record is there as an attribute."""
    error = failure(["x" * 1_000_000], mapped(refuse))
    assert len(str(error)) < 300
    assert error.record == "x" * 1_000_000


def test_an_error_without_a_message_is_named_by_its_type():
    """No dangling colon."""

    def fail(_record: Any) -> Any:
        raise KeyError

    assert str(failure([1], mapped(fail))) == "step 'flow.bad' failed on 1: KeyError"


def test_an_error_whose_str_raises_is_reported():
    """Nothing a user's exception does hides it."""

    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert name_of(BrokenError()) == "BrokenError: <its __str__ raises RuntimeError>"


def test_the_chain_of_causes_ends_in_the_first_error():
    """The engine puts its error at the front and touches nothing behind it."""

    def fail(_record: Any) -> Any:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise ValueError("second") from first

    error = failure([1], mapped(fail))
    assert isinstance(error.__cause__, ValueError)
    assert isinstance(error.__cause__.__cause__, KeyError)
    assert error.__cause__.__cause__.__cause__ is None


def test_notes_of_the_users_error_stay_with_it():
    """They belong to the cause."""

    def fail(_record: Any) -> Any:
        error = ValueError("no")
        error.add_note("try another")
        raise error

    error = failure([1], mapped(fail))
    assert error.__cause__ is not None
    assert error.__cause__.__notes__ == ["try another"]


def test_the_records_of_a_batch_before_the_failing_one_are_not_blamed():
    """It is the very record, wherever in its batch."""
    error = failure([3, 2, 1, 0, 5], mapped(lambda x: 1 / x), batch_size=5)
    assert (error.record, error.has_record) == (0, True)


def test_none_is_a_record():
    """`has_record` tells it from not knowing."""
    error = failure([None], mapped(refuse))
    assert (error.record, error.has_record) == (None, True)


def test_a_batch_function_names_its_step():
    """Which of its records is to blame, nobody knows."""
    error = failure([1, 2], lambda s: op.flat_map_batch("bad", s, refuse), batch_size=2)
    assert str(error) == "step 'flow.bad' failed: ValueError: no"
    assert (error.step_id, error.has_record) == ("flow.bad", False)


def test_a_generator_given_back_for_a_batch_fails_in_its_step():
    """Though it runs after the function has returned; also with a `TypeError` of its own."""

    def spread(batch: list[Any]) -> Any:
        yield from batch
        raise TypeError("mine")

    error = failure([1], lambda s: op.flat_map_batch("bad", s, spread))
    assert error.step_id == "flow.bad"
    assert str(error.__cause__) == "mine"


class Logic(op.StatefulBatchLogic[Any, Any, Any]):
    """Fails in the method that its key names."""

    def __init__(self, key: str) -> None:
        self.key = key

    def fail_in(self, method: str) -> None:
        if self.key == method:
            raise ValueError(method)

    def on_batch(self, values: list[Any]) -> Any:
        self.key = values[0]
        self.fail_in("on_batch")
        return [], False

    def on_notify(self) -> Any:
        self.fail_in("on_notify")
        return [], False

    def on_eof(self) -> Any:
        self.fail_in("on_eof")
        return [], False

    def notify_at(self) -> Any:
        self.fail_in("notify_at")
        return datetime(2000, 1, 1, tzinfo=UTC)

    def snapshot(self) -> Any:
        return None


@pytest.mark.parametrize("method", ["on_batch", "notify_at", "on_notify", "on_eof"])
def test_every_method_of_a_keyed_logic_is_blamed_with_its_key(method: str):
    """Step and key are named."""
    items = [("other", "other"), (method, method)]
    error = failure(
        items, lambda s: op.stateful_batch("bad", s, lambda _resume: Logic("")), batch_size=2
    )
    assert (error.step_id, error.key) == ("flow.bad", method)
    assert str(error.__cause__) == method


def test_a_builder_that_fails_is_blamed_with_its_key():
    """It is called for the first value of a key."""
    error = failure([("k", 1)], lambda s: op.stateful_batch("bad", s, refuse))
    assert (error.step_id, error.key) == ("flow.bad", "k")


def test_a_join_names_the_record_it_can_not_take():
    """Ports of several inputs are no different."""
    error = failure([5], lambda s: op.join("bad", s, s))
    assert (error.step_id, error.record) == ("flow.bad", 5)


def test_a_run_error_is_explained_once():
    """What already says where it comes from is left as it is."""
    error = EngineRuntimeError("known", step_id="flow.step")
    assert explained(error) is error


def test_an_error_from_nowhere_blames_the_run():
    """Without frames of a step there is no step to name."""
    error = explained(ValueError("no"))
    assert (str(error), error.step_id) == ("the run failed: ValueError: no", None)


def test_blaming_names_the_step_and_what_it_was_doing():
    """For what happens while no record is worked on."""
    with (
        pytest.raises(EngineRuntimeError, match=r"'flow\.in' failed while opening") as caught,
        blaming("flow.in", "opening its source"),
    ):
        raise OSError("gone")
    assert caught.value.doing == "opening its source"
    assert isinstance(caught.value.__cause__, OSError)
