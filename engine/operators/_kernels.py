"""Kernels: what a step does, in the form that the runtime can run fastest.

An operator's `kernel=` factory makes one of these from the step and the number of workers. The
planner (`engine.runtime._plan`) looks at nothing else of a step: core operators have a kernel
because nothing else describes them, composed ones because it is faster than their composition.

==================  =============================================================================
`RecordKernel`      works record by record; writes lines into a loop that it shares with the
                    steps before and after it (stateless ones here, stateful ones in
                    `_stateful_kernels`)
`BatchKernel`       a function from a list to an iterable
`KeyedKernel`       keyed state with several inputs or timers: `_stateful_batch`, `_join`
`BranchKernel`,     change the graph's shape, not the records
`MergeKernel`,
`RedistributeKernel`
`DeadLettersKernel` the same, of what steps have left out
`InputKernel`,      the ends, where connectors are
`OutputKernel`
==================  =============================================================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from engine.dataflow import f_repr
from engine.errors import UserCodeError
from engine.operators._codegen import RecordCode, Value
from engine.operators._keys import check_key, is_pair
from engine.operators._shown import shown
from engine.operators._state import KeyedState
from engine.operators._state_options import DEFAULT_STATE, StateOptions

Picks: TypeAlias = Callable[[int, list[Any]], list[Any]]
"""Given an input's number and a batch, gives some of its records."""


class Progress(Protocol):
    """What a running step may know of the worker around it."""

    epoch: int


class Failures(Protocol):
    """What takes the records that a step goes on without."""

    def take(self, ex: Exception, record: Any, *, port: int = 0, waited: bool = False) -> bool:
        """The step has raised for a record, which is left out.

        Args:
            ex: What it raised.
            record: The record, in the form in which the step was given it.
            port: The input that it came by.
            waited: It has come with an earlier batch than the one that the step is working on.

        Returns:
            False if this is nothing that a step may go on after: raise it.
        """
        ...

    def take_all(self, ex: Exception, batch: list[Any]) -> bool:
        """The step has raised for a batch, all of which is left out; as `take` otherwise."""
        ...


@dataclass(frozen=True, slots=True)
class StepContext:
    """One step on one worker, while it runs."""

    step_id: str
    worker_index: int
    worker_count: int
    progress: Progress
    now_s: Callable[[], float]
    """The wall clock, in seconds since 1970 UTC."""
    state: KeyedState = field(default_factory=KeyedState)
    """State by key; a step that keeps none leaves it empty."""
    asides: tuple[list[Any] | None, ...] = ()
    """Take what a step with several outputs emits on its second one, its third, and so on; None
    where nobody reads it."""
    failures: Failures | None = None
    """Takes the records that the step's functions raise for; None where that ends the run."""

    @property
    def aside(self) -> list[Any] | None:
        """What takes the second output, if there is one and somebody reads it."""
        return self.asides[0] if self.asides else None


class RecordKernel(ABC):
    """A step that handles each record by itself, in a loop shared with its neighbours.

    What it emits goes to its first output. A step that has a second one writes lines that append to
    `StepContext.aside`, which is emptied there after each batch.
    """

    keyed = False
    """Whether the step keeps state by key, so that records must be routed by key before it."""

    takes_pairs = False
    """Whether its records are `(key, value)` pairs."""

    final = False
    """Whether the step emits only at end of input (`emit_final`), and nothing per record."""

    state_options: StateOptions = DEFAULT_STATE
    """What the user says about the step's state, if it is keyed."""

    def prefetches(self, step: StepContext) -> bool:
        """Whether states should be brought to memory for a whole batch before it is worked on."""
        return False

    @abstractmethod
    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value | None:
        """Write the step's lines; gives what it emits per record, or None for nothing."""

    def emit_final(self, step: StepContext) -> list[Any]:
        """What the step emits at end of input."""
        raise NotImplementedError(step.step_id)


@dataclass(frozen=True, slots=True)
class MapKernel(RecordKernel):
    """`map`: one record out for each in."""

    mapper: Callable[[Any], Any]

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        """``out = mapper(record)``."""
        fn, record, out = code.bind("mapper", self.mapper), code.var(value), code.name("record")
        code.line(f"{out} = {fn}({record})")
        return Value(out)


@dataclass(frozen=True, slots=True)
class FilterKernel(RecordKernel):
    """`filter`: only records for which the predicate gives True."""

    predicate: Callable[[Any], bool]

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        """``if not predicate(record): continue``, with a check for a real `bool`."""
        record = code.var(value)
        write_predicate(code, self.predicate, record)
        return Value(record)


@dataclass(frozen=True, slots=True)
class FlatMapKernel(RecordKernel):
    """`flat_map`, and `flatten` where there is no mapper: each record becomes any number."""

    mapper: Callable[[Any], Iterable[Any]] | None

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        """``for out in mapper(record):``."""
        record = code.var(value)
        if self.mapper is None:
            items = checked_iterable(code, record, None)
        else:
            fn = code.bind("mapper", self.mapper)
            items = checked_iterable(code, f"{fn}({record})", self.mapper)
        out = code.name("record")
        code.each(out, items)
        return Value(out)


@dataclass(frozen=True, slots=True)
class FilterMapKernel(RecordKernel):
    """`filter_map`: one record out for each in, less those that become None."""

    mapper: Callable[[Any], Any]

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        """``out = mapper(record)``, ``if out is None: continue``."""
        out = MapKernel(self.mapper).write(code, value, step)
        code.block(f"if {out.var} is None:", "continue")
        return out


@dataclass(frozen=True, slots=True)
class OnValueKernel(RecordKernel):
    """`map_value` and its kin: an inner kernel works on the value while the key stays."""

    takes_pairs = True
    inner: RecordKernel

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        """Split the pair, let the inner kernel write, and join its result to the key."""
        key, val = code.pair(value)
        out = self.inner.write(code, Value(val), step)
        assert out is not None  # noqa: S101
        return Value(pair=(key, code.var(out)))


@dataclass(frozen=True, slots=True)
class KeyOnKernel(RecordKernel):
    """`key_on`: put a key before each record."""

    key: Callable[[Any], Any]

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        """``key = fn(record)``, checked; the pair is made a tuple only if someone needs one."""
        record, fn, key = code.var(value), code.bind("key_fn", self.key), code.name("key")
        code.line(f"{key} = {fn}({record})")
        write_key_check(code, key)
        return Value(pair=(key, record))


@dataclass(frozen=True, slots=True)
class KeyRmKernel(RecordKernel):
    """`key_rm`: drop the key."""

    takes_pairs = True

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        """Split the pair and go on with the value."""
        return Value(code.pair(value)[1])


@dataclass(frozen=True, slots=True)
class InspectKernel(RecordKernel):
    """`inspect`: show each record to a function and pass it on."""

    inspector: Callable[[str, Any], None]
    shown_id: str

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        """``inspector(step_id, record)``."""
        record, fn = code.var(value), code.bind("inspector", self.inspector)
        code.line(f"{fn}({self.shown_id!r}, {record})")
        return Value(record)


@dataclass(frozen=True, slots=True)
class InspectDebugKernel(RecordKernel):
    """`inspect_debug`: as `inspect`, with the epoch and the worker."""

    inspector: Callable[[str, Any, int, int], None]

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        """``inspector(step_id, record, epoch, worker_index)``."""
        record, fn = code.var(value), code.bind("inspector", self.inspector)
        progress = code.bind("progress", step.progress)
        arguments = f"{step.step_id!r}, {record}, {progress}.epoch, {step.worker_index}"
        code.line(f"{fn}({arguments})")
        return Value(record)


@dataclass(frozen=True, slots=True)
class BatchKernel:
    """`flat_map_batch` and whatever else works on a whole batch."""

    mapper: Callable[[list[Any]], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class BranchKernel:
    """`branch`: the first output gets what the predicate holds for, the second the rest."""

    predicate: Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class MergeKernel:
    """`merge`: all inputs in one output."""


@dataclass(frozen=True, slots=True)
class RedistributeKernel:
    """`redistribute`: deal records evenly over the workers."""


@dataclass(frozen=True, slots=True)
class InputKernel:
    """`input`: records from a source."""

    source: Any


@dataclass(frozen=True, slots=True)
class OutputKernel:
    """`output`: records into a sink."""

    sink: Any


@dataclass(frozen=True, slots=True)
class DeadLettersKernel:
    """`dead_letters`: what steps went on without; as a `merge` of those steps."""


class StreamClock(Protocol):
    """How a keyed step tells the times of the records of one of its inputs.

    The runtime makes one watermark for the step of it (`engine.runtime._watermarks`): of each
    source partition the latest time less `wait_us`, and of these the lowest.
    """

    @property
    def wait_us(self) -> int:
        """How far records may come behind the latest one, in microseconds."""
        ...

    @property
    def idle_after_s(self) -> float:
        """After what silence a partition that has caught up is left out, in seconds."""
        ...

    def latest_us(self, batch: list[Any]) -> int | None:
        """The latest time in a batch of ``(key, value)``, in microseconds since 1970 UTC.

        None if no record has one.
        """
        ...


class KeyedLogic(ABC):
    """A running `KeyedKernel`: one step on one worker.

    What its methods give goes to the first output. Where there are more it appends to
    `StepContext.asides`, which are emptied after each call.
    """

    batch_latest_us: int | None = None
    """What `StreamClock.latest_us` would say of the batch that `on_batch` was given last, so that
    times need not be worked out twice. Read only where nothing lies between the step and the one
    before it (`StepContext.worker_count` is 1); None before each call."""
    picks: Picks | None = None
    """Where the step goes on after errors: gives the records of a batch that it can work on at all,
    before `on_batch` is given them."""

    @abstractmethod
    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:
        """Take records of one input; gives what the step emits for them."""

    def on_eof(self) -> list[Any]:
        """What the step emits once all inputs have ended."""
        return []

    def next_due_s(self) -> float | None:
        """The wall-clock time of the first timer, in seconds since 1970 UTC, or None."""
        return None

    def on_notify(self) -> list[Any]:
        """Fire all timers that are due; gives what the step emits for them."""
        return []

    def step_state(self) -> Any:
        """What each worker saves with an epoch for the step as a whole, if the kernel does so."""
        raise NotImplementedError

    def resume_step(self, states: list[Any]) -> None:
        """Go on from what the workers of the last run have saved by `step_state`; at least one has.

        Comes before all else; not at all if nothing was saved.

        Raises:
            StoreError: What was saved is of something else.
        """
        raise NotImplementedError(states)

    def on_watermark(self, at_us: int) -> list[Any]:
        """The watermark of a step with stream clocks has risen; gives what the step emits for that.

        Args:
            at_us: To this time, in microseconds since 1970 UTC.
        """
        raise NotImplementedError(at_us)

    def resume_watermark(self, at_us: int) -> None:
        """The watermark of a step with stream clocks was this when the last epoch was saved.

        Comes before all else; not at all if none was saved.
        """
        raise NotImplementedError(at_us)


class KeyedKernel(ABC):
    """A keyed step that is more than lines in a loop: several inputs, or timers."""

    state_options: StateOptions = DEFAULT_STATE
    """What the user says about the step's state."""
    saves_step = False
    """Whether each worker saves something for the step as a whole."""
    takes_pairs = True

    def stream_clocks(self) -> Sequence[StreamClock | None]:
        """The clocks that make the step's watermark, by input port; none for a step without."""
        return ()

    def new_state(self) -> KeyedState:
        """What a step without a time to live keeps its state in."""
        return KeyedState()

    @abstractmethod
    def start(self, step: StepContext) -> KeyedLogic:
        """Begin running the step on one worker."""


def write_predicate(code: RecordCode, predicate: Callable[[Any], bool], record: str) -> None:
    """Write lines that go on only where the predicate gives True."""
    fn, keep = code.bind("predicate", predicate), code.name("keep")
    code.line(f"{keep} = {fn}({record})")
    bad = code.bind("not_a_bool", not_a_bool_raiser(predicate))
    code.nest(f"if {keep} is not True:")
    code.block(f"if {keep} is False:", "continue")
    code.line(f"{bad}({keep})")
    code.leave()


def write_key_check(code: RecordCode, key: str) -> None:
    """Write the check that `key` may be a key; it costs next to nothing where it is a `str`."""
    check = code.bind("check_key", check_key)
    code.block(f"if {key}.__class__ is not str:", f"{check}({key})")


def checked_iterable(code: RecordCode, items: str, function: Callable[..., Any] | None) -> str:
    """Write lines that make sure of something to iterate over; gives the variable's name."""
    name = code.name("items")
    bad = code.bind("not_iterable", not_iterable_raiser(function))
    code.line(f"{name} = {items}")
    code.block(f"if {name}.__class__ is not list:", f"{bad}({name})")
    return name


def not_a_bool_raiser(function: Callable[..., Any]) -> Callable[[object], None]:
    """A function that refuses what a predicate gave."""

    def refuse(result: object) -> None:
        msg = f"a predicate must return a `bool`; {f_repr(function)} returned {shown(result)}"
        raise UserCodeError(msg, function=function, hint="compare, or wrap the result in `bool()`")

    return refuse


def not_iterable_raiser(function: Callable[..., Any] | None) -> Callable[[object], None]:
    """A function that refuses what can't be iterated over."""

    def refuse(result: object) -> None:
        try:
            iter(result)  # type: ignore[call-overload]
        except TypeError as ex:
            who = "each record" if function is None else f"what {f_repr(function)} returns"
            msg = f"{who} must be an iterable; got {shown(result)}"
            raise UserCodeError(msg, function=function, hint="return a list") from ex

    return refuse


def not_a_pair_raiser(function: Callable[..., Any], wanted: str) -> Callable[[object], None]:
    """A function that refuses a result that isn't a 2-tuple."""

    def refuse(result: object) -> None:
        if is_pair(result):
            return
        msg = f"what {f_repr(function)} returns must be a 2-tuple; got {shown(result)}"
        raise UserCodeError(msg, function=function, hint=f"return `{wanted}`")

    return refuse
