"""Writes `operators.md`, the operator reference, from the docstrings of `engine.operators`.

Run it after changing a docstring: ``python docs/make_operators.py``. A test fails while the page is
not what this would write.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_overloads

import engine.operators as op
from engine.operators import helpers

PAGE = Path(__file__).with_name("operators.md")
WIDTH_MAX = 92

INTRO = """\
# Operators

<!-- Written by docs/make_operators.py from the docstrings: change those, then run it. -->

A flow is made of steps, and each step is a call of an operator: a function that takes the name of
the step, the streams that it works on and its parameters, and gives the stream that comes out.

    import engine.operators as op

Import the module as `op`: some operators have the names of Python's built-in functions.

**Keyed streams** carry `(key, value)` 2-tuples. Keyed steps keep state by key, and one worker owns
each key. A key is a `str` by convention; `bytes`, `int` and tuples of these work as well
(`op.Key`), `bool`, `float` and None don't.

**Order.** The records of one partition of a source stay in order through all steps on one worker.
A keyed step sees the values of a key in the order in which they came to it, and what it emits for a
key keeps that order. Between different keys of one batch no order is promised, unless an operator
says so.

**State** is kept by key, in the steps that say so, on the worker that owns the key. How long it
lives (`ttl`), and what becomes of it when its form changes (`state_version`, `migrate`), is told in
[state.md](state.md).

**Windows** have operators of their own, in `engine.operators.windowing`: see
[windows.md](windows.md). So have joins and order by the times of values:
[time_joins.md](time_joins.md).

**Tasks**, which are calls that take long, and **actors** have guides of their own:
[tasks.md](tasks.md) and [actors.md](actors.md).

**Errors.** A mistake in building a flow is a `TypeError` or a `ValueError`, raised where it stands.
What goes wrong while a flow runs ends the run with an `EngineRuntimeError`, whose chain of causes
ends in what was raised first; a function that gives its step something unusable is a
`UserCodeError`. A step can go on without the records that its functions raise for, if it says
`.on_error("skip")` or `.on_error("dead_letter")`: see [errors.md](errors.md). An `async def` is
refused by all operators but `task`.

**Your own operators** are functions with `@operator` (see `engine.dataflow`) that call others.
"""

GROUPS: dict[str, tuple[str, ...]] = {
    "Ends": ("input", "output"),
    "One record at a time": ("map", "filter", "flat_map", "flatten", "filter_map"),
    "Whole batches": ("flat_map_batch",),
    "Several streams": ("branch", "merge", "redistribute"),
    "Records that steps have left out": ("dead_letters",),
    "Looking in": ("inspect", "inspect_debug", "raises"),
    "Calls that take long": ("task",),
    "Objects that send each other messages": ("actor",),
    "Keys": ("key_on", "key_rm"),
    "Values of keyed streams": ("map_value", "filter_value", "flat_map_value", "filter_map_value"),
    "Looking up": ("enrich_cached",),
    "State by key": (
        "stateful_map",
        "stateful_flat_map",
        "stateful",
        "stateful_batch",
        "dedupe",
        "rolling",
        "timeout",
        "collect",
        "join",
        "table_join",
    ),
    "At the end of input": (
        "count_final",
        "fold_final",
        "reduce_final",
        "max_final",
        "min_final",
    ),
}
CLASSES: dict[str, tuple[str, ...]] = {
    "ActorOut": (),
    "BranchOut": (),
    "DeadLetter": ("to_json",),
    "DeadMessage": (),
    "TaskError": (),
    "TaskOut": (),
    "StatefulLogic": ("on_item", "on_notify", "on_eof", "notify_at", "snapshot"),
    "StatefulBatchLogic": ("on_batch", "on_notify", "on_eof", "notify_at", "snapshot"),
    "TTL": (),
    "TTLCache": ("get", "remove"),
}
HELPERS = ("map_dict_value",)
_SECTION = re.compile(r"^(Args|Returns|Raises):$", re.MULTILINE)
_TITLES = {"Args": "Arguments", "Returns": "Gives", "Raises": "Raises"}


def page() -> str:
    """The whole page."""
    parts = [INTRO, *_overview()]
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n")
        for name in names:
            parts.extend(_entry(f"`{name}`", f"op.{name}", getattr(op, name)))
    parts.append("## Classes\n")
    for name, methods in CLASSES.items():
        parts.extend(_class(name, methods))
    parts.append("## Helpers\n")
    for name in HELPERS:
        full = f"op.helpers.{name}"
        parts.extend(_entry(f"`helpers.{name}`", full, getattr(helpers, name)))
    return "\n".join(parts).rstrip() + "\n"


def _overview() -> Iterator[str]:
    yield "| operator | what it does |\n|---|---|"
    for names in GROUPS.values():
        for name in names:
            yield f"| [`{name}`](#{name}) | {_summary(getattr(op, name))} |"
    yield ""


def _summary(documented: Any) -> str:
    return _plain(_doc(documented).partition("\n\n")[0].replace("\n", " "))


def _entry(title: str, call: str, function: Callable[..., Any]) -> Iterator[str]:
    yield f"### {title}\n"
    yield f"```python\n{call}{_signature(function)}\n```\n"
    yield from _body(_doc(function))


def _class(name: str, methods: tuple[str, ...]) -> Iterator[str]:
    kind = getattr(op, name)
    yield f"### `{name}`\n"
    yield from _body(_doc(kind))
    for method in methods:
        function = getattr(kind, method)
        yield f"- `{method}{_signature(function, method=True)}`: {_summary(function)}"
    if methods:
        yield ""


def _body(doc: str) -> Iterator[str]:
    """A docstring as Markdown: text, sections as lists, the example as a block of its own."""
    text, prompt, example = doc.partition(">>> ")
    head, *sections = _SECTION.split(text)
    yield _plain(head.strip()) + "\n"
    for name, content in zip(sections[::2], sections[1::2], strict=True):
        yield f"**{_TITLES[name]}**\n"
        yield from _items(textwrap.dedent(content).strip(), listed=name != "Returns")
        yield ""
    if prompt:
        yield f"```python\n{prompt}{example.rstrip()}\n```\n"


def _items(content: str, *, listed: bool) -> Iterator[str]:
    """The entries of a section: ``name: text``, further lines of an entry being indented."""
    if not listed:
        yield _plain(content)
        return
    for entry in re.split(r"\n(?! )", content):
        name, _, text = entry.partition(": ")
        words = " ".join(text.split())
        yield f"- `{name}`: {_plain(words)}"


def _signature(function: Callable[..., Any], *, method: bool = False) -> str:
    """A signature, on one line if it fits; without private parameters."""
    signature = inspect.signature(function)
    if "Any" in str(signature.return_annotation) and get_overloads(function):
        signature = inspect.signature(get_overloads(function)[-1])
    parameters = [p for p in signature.parameters.values() if not p.name.startswith("_")]
    shown = [_parameter(p) for p in (parameters[1:] if method else parameters)]
    result = f" -> {signature.return_annotation}"
    line = f"({', '.join(shown)}){result}"
    if len(line) <= WIDTH_MAX or method:
        return line
    return "(\n" + "".join(f"    {each},\n" for each in shown) + f"){result}"


def _parameter(parameter: inspect.Parameter) -> str:
    star = "*" if parameter.kind is inspect.Parameter.VAR_POSITIONAL else ""
    text = f"{star}{parameter.name}: {parameter.annotation}"
    if parameter.default is parameter.empty:
        return text
    default = "..." if callable(parameter.default) else repr(parameter.default)
    return f"{text} = {default}"


def _doc(documented: Any) -> str:
    return inspect.getdoc(documented) or ""


def _plain(text: str) -> str:
    return text.replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
