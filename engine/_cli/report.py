"""The error report: what went wrong, as one block that a person can read.

    error: step 'orders.parse' failed: ValueError: invalid literal for int() with base 10: 'x'
      record: {'id': 'x'}
      key:    'alice'
      at:     flows/orders.py:12, in parse
                  return int(record['id'])
      (run with --verbose for all frames)

Only the command lines use it; library callers get the exceptions it is made from. The error that
was raised first is the headline; what became of it on its way up is mentioned below it.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

from engine._cli.frames import (
    Place,
    definition_place,
    raised_by_engine,
    shown_path,
    user_places,
)
from engine._cli.hints import hint_for
from engine.dataflow import Dataflow, Operator
from engine.errors import EngineError, EngineRuntimeError, ImportStringError, UserCodeError
from engine.operators._shown import shortened
from engine.runtime._failure import name_of

_LABEL_WIDTH = 8
_CALLERS_MAX = 2
_CHAIN_MAX = 5
_MESSAGE_LENGTH_MAX = 2000
_MESSAGE_LINES_MAX = 12


def report(error: BaseException, *, flow: Dataflow | None = None, verbose: bool = False) -> str:
    """The block for an error, without a line end.

    Args:
        error: What `run_flow` or `load_flow` raised.
        flow: The flow that ran, to find a step's functions where no frame shows them.
        verbose: Put the whole traceback before the block, the engine's frames included.
    """
    lines = [_headline(error), *_details(error, flow)]
    if verbose:
        return "\n".join(["".join(traceback.format_exception(error)), *lines])
    if any(ex.__traceback__ for ex in _chain(error)[1:]):
        lines.append("  (run with --verbose for all frames)")
    return "\n".join(lines)


def root_of(error: BaseException) -> BaseException:
    """The error that is to blame: the first one raised, or what the engine made of it."""
    return _faults(error)[-1]


def _chain(error: BaseException) -> list[BaseException]:
    """The error and its causes, each being the cause of the one before."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and all(cause is not seen for seen in chain):
        chain.append(cause)
        cause = cause.__cause__
    return chain


def _faults(error: BaseException) -> list[BaseException]:
    """The chain without the wrapper around it and without what an engine error stands for."""
    chain = _chain(error)
    wrapped = isinstance(error, EngineRuntimeError | ImportStringError) and len(chain) > 1
    faults = chain[1:] if wrapped else chain
    for i, fault in enumerate(faults):
        if isinstance(fault, EngineError):
            return faults[: i + 1]
    return faults


def _headline(error: BaseException) -> str:
    root = root_of(error)
    what = str(root) if isinstance(root, EngineError) else name_of(root)
    if isinstance(root, SyntaxError):
        what = f"{type(root).__name__}: {root.msg}"
    if isinstance(error, EngineRuntimeError):
        who = "the run" if error.step_id is None else f"step {error.step_id!r}"
        what = what.removeprefix(f"{who}: ")
        while_doing = f" while {error.doing}" if error.doing else ""
        what = f"{who} failed{while_doing}: {what}"
    elif isinstance(error, ImportStringError) and error is not root:
        who = "the flow can't be built" if _refused_by_operator(root) else str(error)
        what = f"{who}: {what}"
    return f"error: {_bounded(what)}"


def _details(error: BaseException, flow: Dataflow | None) -> Iterator[str]:
    faults = _faults(error)
    root = faults[-1]
    if isinstance(error, EngineRuntimeError):
        if error.has_record:
            yield _labelled("record", _on_one_line(shortened(error.record)))
        if error.key is not None:
            yield _labelled("key", _on_one_line(shortened(error.key)))
    yield from _where(error, faults, flow)
    yield from _others(faults)
    notes = [note for ex in _chain(error) for note in getattr(ex, "__notes__", ())]
    for note in dict.fromkeys(map(str, notes)):
        yield _labelled("note", _bounded(note))
    hint = hint_for(error, root)
    if hint:
        yield _labelled("hint", hint)


def _others(faults: list[BaseException]) -> Iterator[str]:
    """What else was raised: behind an engine error, because of the root, and before it."""
    root = faults[-1]
    if isinstance(root, EngineError) and not isinstance(root, UserCodeError):
        for ex in _chain(root)[1:_CHAIN_MAX]:
            yield _labelled("cause", _bounded(name_of(ex)))
    for ex in list(reversed(faults[:-1]))[:_CHAIN_MAX]:
        yield _labelled("then", _bounded(name_of(ex)))
    handled = root.__context__
    if handled is not None and not root.__suppress_context__:
        yield _labelled("while", f"handling {_bounded(name_of(handled))}")


def _where(
    error: BaseException, faults: list[BaseException], flow: Dataflow | None
) -> Iterator[str]:
    """The user's own frames, nearest to the root first, then those of what was behind it."""
    label = "at"
    if isinstance(faults[-1], SyntaxError):
        yield from _syntax_error_place(faults[-1])
        label = "from"
    behind = _chain(faults[-1])[1:]
    for ex in [*reversed(faults), *behind, error]:
        places = user_places(ex.__traceback__, 1 + _CALLERS_MAX)
        if places:
            yield from _shown_place(label, places[0])
            for caller in places[1:]:
                yield _labelled("from", str(caller))
            return
    if isinstance(faults[-1], UserCodeError):
        yield from _function_place(faults[-1], getattr(error, "step_id", None), flow)


def _shown_place(label: str, place: Place) -> Iterator[str]:
    yield _labelled(label, str(place))
    if place.source:
        yield f"{' ' * (_LABEL_WIDTH + 6)}{place.source}"


def _syntax_error_place(error: SyntaxError) -> Iterator[str]:
    """A syntax error has no frame of its own: it says itself where it is."""
    if not error.filename:
        return
    yield _labelled("at", f"{shown_path(error.filename)}:{error.lineno or 1}")
    if error.text:
        source = error.text.rstrip()
        indent = len(source) - len(source.lstrip())
        margin = " " * (_LABEL_WIDTH + 6)
        yield margin + source.strip()
        if error.offset and source.isascii():
            yield margin + " " * (error.offset - 1 - indent) + "^"


def _function_place(
    root: UserCodeError, step_id: str | None, flow: Dataflow | None
) -> Iterator[str]:
    """Where the function is that gave a step something wrong and has returned since.

    Where it isn't known, another of the step's functions at least says where the step is.
    """
    place = definition_place(root.function)
    label = "at"
    if place is None and step_id is not None and flow is not None:
        label = "near"
        steps = _enclosing_steps(flow.substeps, step_id)
        params = (value for step in steps for value in step.params.values() if callable(value))
        place = next(filter(None, map(definition_place, params)), None)
    if place is not None:
        yield from _shown_place(label, place)


def _enclosing_steps(steps: list[Operator], step_id: str) -> list[Operator]:
    """The step of that id and those it is part of, innermost first."""
    for step in steps:
        if step_id == step.step_id or step_id.startswith(f"{step.step_id}."):
            return [*_enclosing_steps(step.substeps, step_id), step]
    return []


def _refused_by_operator(error: BaseException) -> bool:
    """Whether a call of the user's was refused, as opposed to the user's module raising."""
    traceback = error.__traceback__
    return (
        isinstance(error, TypeError | ValueError)
        and raised_by_engine(traceback)
        and bool(user_places(traceback, 1))
    )


def _labelled(label: str, text: Any) -> str:
    return f"  {label + ':':<{_LABEL_WIDTH}}{text}"


def _on_one_line(text: str) -> str:
    return " ".join(text.split("\n"))


def _bounded(text: str) -> str:
    """Any message, at most a screenful of it, its further lines indented."""
    if len(text) > _MESSAGE_LENGTH_MAX:
        text = f"{text[:_MESSAGE_LENGTH_MAX]}..."
    lines = text.strip().splitlines() or [""]
    if len(lines) > _MESSAGE_LINES_MAX:
        lines = [*lines[:_MESSAGE_LINES_MAX], "..."]
    return ("\n" + " " * (_LABEL_WIDTH + 2)).join(lines)
