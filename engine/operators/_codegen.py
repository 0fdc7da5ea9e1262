"""Source text of one loop that takes a batch through a run of steps.

A run of steps that work record by record is compiled into a single Python function: one `for`
over the batch, each step's lines nested in it. A user's function is called directly, no wrapper
per record, and no list is made between two steps. Kernels (`engine.operators._kernels`) write
their lines into a `RecordCode`; the runtime (`engine.runtime._fusion`) compiles it.

Every line remembers the step that wrote it, so a traceback's line number says which step failed
and which local variable held the record, at no cost while all goes well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from engine.operators._keys import refuse_unkeyed

_INDENT = "    "

Take: TypeAlias = Callable[[Exception, Any], bool]
"""Takes an exception and the record it was raised for; False if the exception is to be raised."""


@dataclass(frozen=True, slots=True)
class Value:
    """What flows from one step's lines to the next: a variable, or a pair not yet made a tuple."""

    var: str | None = None
    pair: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """The step that a line belongs to, and the variables that hold its record and key."""

    step_id: str
    record: str
    key: str | None = None
    unpacked: str | None = None
    """On a line that takes a tuple apart: the variable that may not be a pair after all."""
    refuse: Callable[[object], None] | None = None
    """Raises the error that says what is wrong with `unpacked`."""


class RecordCode:
    """Collects the body of the loop. `value` is the record as the last step left it."""

    def __init__(self) -> None:
        self.first_lines: list[str] = []
        """What is done once per batch, before the loop."""
        self.lines: list[str] = []
        self.sites: list[Site] = []
        self.bound: dict[str, Any] = {}
        self.depth = 2
        """How deep the next line stands, the function and its loop being two."""
        self._names = 0
        self._site = Site("", "record")
        self._handler: list[str] | None = None
        """What the present step does about an exception of its lines, if it does anything."""
        self._guarded_from = 0

    def begin_step(self, step_id: str, value: Value, take: Take | None = None) -> None:
        """All lines from here on belong to this step, which is about to work on `value`.

        Args:
            step_id: The step.
            value: The record that it works on.
            take: Takes an exception that its lines raise, with the record, which is left out then;
                False says that it has to be raised. None lets all exceptions through.
        """
        if value.pair is None:
            self._site = Site(step_id, value.var or "record")
        else:
            self._site = Site(step_id, value.pair[1], value.pair[0])
        if take is not None:
            failure = self.name("failure")
            taken = f"{self.bind('take', take)}({failure}, {self.expression(value)})"
            self._handler = [f"except Exception as {failure}:", f"if not {taken}: raise"]
            self._guard()

    def end_step(self) -> None:
        """What follows isn't this step's."""
        if self._handler is not None:
            self._unguard()
            self._handler = None

    @property
    def guarded(self) -> bool:
        """Whether the present step goes on after an exception of its lines."""
        return self._handler is not None

    def pause_guard(self) -> None:
        """What follows may raise what isn't the record's fault."""
        if self._handler is not None:
            self._unguard()

    def resume_guard(self, undo: str) -> None:
        """What follows is the record's fault again.

        Args:
            undo: The line that makes good what the step has done to its state by then.
        """
        if self._handler is not None:
            self._handler.append(undo)
            self._guard()

    def _guard(self) -> None:
        self.line("try:")
        self.depth += 1
        self._guarded_from = len(self.lines)

    def _unguard(self) -> None:
        assert self._handler is not None  # noqa: S101
        self.depth -= 1
        if len(self.lines) == self._guarded_from:
            del self.lines[-1], self.sites[-1]
        else:
            self.block(*self._handler, "continue")

    def first(self, text: str) -> None:
        """Add a line that runs once per batch, before the loop. No user's function in it."""
        self.first_lines.append(_INDENT + text)

    def line(self, text: str) -> None:
        """Add one line at the present depth."""
        self.lines.append(_INDENT * self.depth + text)
        self.sites.append(self._site)

    def block(self, header: str, *body: str) -> None:
        """Add a header line with indented lines under it; the depth stays as it was."""
        self.line(header)
        self.depth += 1
        for text in body:
            self.line(text)
        self.depth -= 1

    def nest(self, header: str) -> None:
        """Open a block in which all that follows runs, as ``for item in items:`` does."""
        self.line(header)
        self.depth += 1

    def each(self, item: str, items: str) -> None:
        """Open a loop over a variable, in which all that follows runs; the step's last line.

        Where the step goes on after exceptions, the items are all made before the first is used:
        either all of them go on or none.
        """
        if self._handler is not None:
            self.line(f"{items} = list({items})")
        self.end_step()
        self.nest(f"for {item} in {items}:")

    def leave(self) -> None:
        """Close a block that `nest` opened."""
        self.depth -= 1

    def name(self, hint: str) -> str:
        """A local variable's name that nothing else uses."""
        self._names += 1
        return f"{hint}{self._names}"

    def bind(self, hint: str, target: object) -> str:
        """Make an object reachable in the loop as a local variable; gives the variable's name."""
        name = self.name(hint)
        self.bound[name] = target
        return name

    def var(self, value: Value) -> str:
        """The record as one variable, a tuple being made of a pair if it must."""
        if value.var is not None:
            return value.var
        name = self.name("record")
        self.line(f"{name} = {self.expression(value)}")
        self._site = replace(self._site, record=name)
        return name

    def expression(self, value: Value) -> str:
        """The record as an expression to be used once."""
        if value.pair is None:
            assert value.var is not None  # noqa: S101
            return value.var
        return f"({value.pair[0]}, {value.pair[1]})"

    def pair(self, value: Value) -> tuple[str, str]:
        """Key and value as two variables; the loop raises where the record isn't a 2-tuple."""
        if value.pair is not None:
            return value.pair
        assert value.var is not None  # noqa: S101
        key, val = self.name("key"), self.name("value")
        self.unpack(key, val, value.var, refuse_unkeyed)
        self._site = Site(self._site.step_id, val, key)
        return key, val

    def unpack(
        self, first: str, second: str, source: str, refuse: Callable[[object], None]
    ) -> None:
        """Take a variable apart that must hold a 2-tuple; `refuse` raises if it doesn't.

        The length isn't checked beforehand, which every record would pay for: Python does so as it
        unpacks, and its error is turned into that of `refuse` once the run has failed.
        """
        bad = self.bind("refuse", refuse)
        self.block(f"if {source}.__class__ is not tuple:", f"{bad}({source})")
        around = self._site
        self._site = replace(around, unpacked=source, refuse=refuse)
        self.line(f"{first}, {second} = {source}")
        self._site = around
