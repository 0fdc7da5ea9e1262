"""The error report as text: which error is the headline, which frames it shows, how long it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import engine.operators as op
from engine._cli.frames import Owner, owner_of
from engine._cli.report import report, root_of
from engine.dataflow import Dataflow
from engine.errors import ConnectorError, EngineRuntimeError, InternalError
from engine.testing import TestingSink, TestingSource, run_main
from tests.tidy.tree import ROOT

HERE = "tests/cli/test_report.py"


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are shown as seen from the current folder."""
    monkeypatch.chdir(ROOT)


def error_of(mapper: Callable[[Any], Any], record: Any = 1) -> EngineRuntimeError:
    """What a run ends with whose only function is this one."""
    flow = Dataflow("f")
    s = op.input("in", flow, TestingSource([record]))
    s = op.map("step", s, mapper)
    op.output("out", s, TestingSink([]))
    with pytest.raises(EngineRuntimeError) as raised:
        run_main(flow)
    return raised.value


def raiser(ex: BaseException) -> Callable[[Any], Any]:
    """A function that raises this."""

    def raise_it(_: Any) -> Any:
        raise ex

    return raise_it


def parse(record: dict[str, str]) -> int:
    return int(record["n"])


def parse_or_complain(record: dict[str, str]) -> int:
    try:
        return parse(record)
    except ValueError as ex:
        msg = "a bad order"
        raise LookupError(msg) from ex


def parse_or_fail_again(record: dict[str, str]) -> int:
    try:
        return record["missing"]  # type: ignore[return-value]
    except KeyError:
        return parse(record)


def parse_json(record: str) -> Any:
    return json.loads(record)


def line_of(function: Callable[..., Any], offset: int) -> int:
    """A line of a function, counted from its first."""
    return function.__code__.co_firstlineno + offset


def test_the_whole_block():
    """Step, error, record, the user's line, and how to see more."""
    assert report(error_of(parse, {"n": "x"})).splitlines() == [
        "error: step 'f.step' failed: ValueError: invalid literal for int() with base 10: 'x'",
        "  record: {'n': 'x'}",
        f"  at:     {HERE}:{line_of(parse, 1)}, in parse",
        '              return int(record["n"])',
        "  (run with --verbose for all frames)",
    ]


def test_the_key_of_a_keyed_step():
    """Stands below the record, which is the value then."""
    flow = Dataflow("f")
    s = op.input("in", flow, TestingSource([("ann", 0)]))
    s = op.stateful_map("divide", s, lambda state, value: (state, 1 / value))
    op.output("out", s, TestingSink([]))
    with pytest.raises(EngineRuntimeError) as raised:
        run_main(flow)
    assert "\n  record: 0\n  key:    'ann'\n" in report(raised.value)


def test_the_error_raised_first_is_the_headline():
    """What it led to on its way up is mentioned below."""
    text = report(error_of(parse_or_complain, {"n": "x"}))
    assert text.startswith("error: step 'f.step' failed: ValueError: invalid literal")
    assert "\n  then:   LookupError: a bad order\n" in text
    assert f"at:     {HERE}:{line_of(parse, 1)}, in parse\n" in text
    assert f"from:   {HERE}:{line_of(parse_or_complain, 2)}, in parse_or_complain\n" in text


def test_an_error_that_was_being_handled_is_no_cause():
    """It is mentioned only."""
    text = report(error_of(parse_or_fail_again, {"n": "x"}))
    assert text.startswith("error: step 'f.step' failed: ValueError: invalid literal")
    assert "\n  while:  handling KeyError: 'missing'\n" in text


def test_frames_of_python_itself_are_left_out():
    """The user's call into it is what is shown."""
    text = report(error_of(parse_json, "{"))
    assert f"at:     {HERE}:{line_of(parse_json, 1)}, in parse_json\n" in text
    assert "json/decoder.py" not in text


def test_the_cause_behind_an_error_of_the_engine():
    """A connector's error stands for what it was made from, which is mentioned."""
    ex = ConnectorError("the broker is gone")
    ex.__cause__ = OSError("connection reset")
    text = report(error_of(raiser(ex)))
    assert text.startswith("error: step 'f.step' failed: the broker is gone\n")
    assert "\n  cause:  OSError: connection reset\n" in text


def test_notes_are_shown_once_each():
    """Of all errors in the chain."""
    ex = ValueError("x")
    ex.add_note("while reading a.txt")
    ex.add_note("while reading a.txt")
    assert report(error_of(raiser(ex))).count("  note:   while reading a.txt") == 1


def test_a_chain_in_a_circle_ends():
    """Causes that lead back to themselves."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert root_of(first) is second
    assert report(error_of(raiser(first))).count("\n  then:") == 1


def test_a_bug_of_the_engine_asks_for_a_report():
    """The user can do nothing else about it."""
    text = report(InternalError("two epochs at once"))
    assert text.startswith("error: two epochs at once")
    with pytest.raises(InternalError) as raised:
        raise_internal_error()
    assert "bug of the engine" in report(raised.value)


def raise_internal_error() -> None:
    """Let the engine itself raise one."""
    code = compile("raise InternalError('x')", owner_file(), "exec")
    exec(code, {"InternalError": InternalError})


def owner_file() -> str:
    """The name of a file of the engine."""
    return report.__code__.co_filename


@dataclass
class Stubborn:
    """An object that can't be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class SilentError(Exception):
    """An exception that can't be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no str")


@pytest.mark.parametrize("verbose", [False, True])
def test_nothing_that_cannot_be_shown_breaks_the_report(verbose: bool):
    """Neither a record nor an exception."""
    text = report(error_of(raiser(SilentError()), Stubborn()), verbose=verbose)
    assert "step 'f.step' failed: SilentError: <its __str__ raises RuntimeError>" in text
    assert "\n  record: <Stubborn whose repr raises RuntimeError>" in text


def test_the_block_stays_short():
    """However long records, messages and lines are."""
    message = "\n".join(["long " * 1000] * 1000)
    text = report(error_of(raiser(ValueError(message)), ["record"] * 10_000))
    assert len(text) < 5_000
    assert text.count("\n") < 20


def test_a_record_is_shown_on_one_line():
    """Also where its repr has several."""

    class Table:
        def __repr__(self) -> str:
            return "a b\n1 2"

    assert "\n  record: a b 1 2\n" in report(error_of(raiser(ValueError()), Table()))


def test_further_lines_of_a_message_are_indented():
    """So that the block stays one."""
    text = report(error_of(raiser(ValueError("first\nsecond"))))
    assert "ValueError: first\n          second\n" in text


def test_verbose_prints_every_frame_before_the_block():
    """Those of the engine too, and its generated lines."""
    text = report(error_of(parse_or_complain, {"n": "x"}), verbose=True)
    assert text.index("Traceback") < text.index("engine/runtime/") < text.index("\nerror: ")
    assert "direct cause" in text
    assert "--verbose" not in text


@pytest.mark.parametrize(
    ("filename", "owner"),
    [
        (owner_file(), Owner.ENGINE),
        ("<engine fused run 3>", Owner.ENGINE),
        (json.__file__, Owner.PYTHON),
        ("<frozen importlib._bootstrap>", Owner.PYTHON),
        ("<string>", Owner.PYTHON),
        (pytest.__file__, Owner.LIBRARY),
        ("/home/ann/flows/orders.py", Owner.USER),
        ("/home/ann/engine/orders.py", Owner.USER),
        ("flows.py", Owner.USER),
    ],
)
def test_whose_code_a_file_is(filename: str, owner: Owner):
    """By where it is installed."""
    assert owner_of(filename) is owner
