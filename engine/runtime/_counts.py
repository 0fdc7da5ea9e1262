"""What a worker counts of its own work, for metrics: plain numbers, nothing of the outside world.

`engine.runtime._build` puts the counting into the chain of nodes where metrics are on; where they
are off there is nothing of it in the way of a batch. Records are never counted one by one: all is
per batch. Reading a clock costs more than counting does, so after each snapshot only the first
calls are timed, until there are enough of them: all of a worker that has few batches a second.

Whoever drives a worker takes a `WorkerSnapshot` about once a second, on the worker's own thread,
and hands it to `engine.runtime._monitor`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Protocol, TypeVar

from engine.connectors import Lag
from engine.operators._state import KeyedState
from engine.runtime._ids import WorkerIndex
from engine.runtime._memory import SizedState

_BITS = 64
_TIMED_CALLS = 1000
"""So many are timed after each snapshot."""
_MICROS = 1e6

Push = Callable[[list[Any]], None]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class StepSnapshot:
    """What one step has done since its worker began.

    A run of steps that share a loop counts as one.
    """

    items_in: int = 0
    items_out: int = 0
    batch_sizes: tuple[int, ...] = ()
    """How many batches came in, by the bit length of their number of items."""
    durations: tuple[int, ...] = ()
    """How many calls were timed, by the bit length of the whole microseconds each took."""
    duration_s: float = 0.0
    """Of the timed calls, all together."""
    held_s: float = 0.0
    """How long something was there to work on and the way out was full."""
    aligning_s: float = 0.0
    """How long the stage that begins here waited for an epoch's other barriers after the first."""
    queued: int | None = None
    """Batches that wait before it; None where none ever do."""
    held: bool = False
    """Its way out is full now."""


@dataclass(frozen=True, slots=True)
class StateSnapshot:
    """What a keyed step has in memory now."""

    keys: int
    """That have state."""
    nbytes: int
    """About how much memory these states take."""


@dataclass(frozen=True, slots=True)
class WatermarkSnapshot:
    """How far event time is for a step now."""

    at_s: float
    """In seconds since 1970 UTC."""
    lag_s: float
    """How far that is behind the wall clock."""


@dataclass(frozen=True, slots=True)
class TasksSnapshot:
    """What the tasks of a step do now, and what has become of others since its worker began."""

    waiting: int
    """To be submitted for the first time."""
    running: int
    resting: int
    """Between two tries."""
    ended: int
    """They have ended, and were not emitted."""
    done: int = 0
    """How many have given a result."""
    failed: int = 0
    """How many have failed for good."""
    again: int = 0
    """How many tries were not the first."""
    durations: tuple[int, ...] = ()
    """How many tries took so long, by the bit length of the whole microseconds."""
    duration_s: float = 0.0
    """Of all tries together."""
    limited_s: float = 0.0
    """How long something could have been submitted but for the rate."""


@dataclass(frozen=True, slots=True)
class ActorsSnapshot:
    """What the actors of a step have done since their worker began."""

    waiting: int
    """Messages in mailboxes now."""
    handled: int
    """Messages that wait no more, those that have failed among them."""
    dead: int
    """Dead letters."""
    failed: int
    """How often a handler has raised."""
    again: int
    """How many of these messages were to be tried again."""
    restarted: int
    """How often an actor began again with a fresh state."""
    sent: int
    """Messages to actors of other workers."""
    received: int
    """Messages from them."""


@dataclass(frozen=True, slots=True)
class ResourceSnapshot:
    """What a worker has of one resource."""

    offered: float
    taken: float


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """What one worker has done since it began."""

    worker: WorkerIndex
    steps: dict[str, StepSnapshot]
    """By the id of the step; of a run of steps that share a loop, of the first one."""
    states: dict[str, StateSnapshot]
    """Of the keyed steps, each by its own id."""
    busy_s: float
    """How long it had something to do."""
    epoch: int
    """The one that is open on it."""
    settling: bool
    """It waits for sinks that have said `PENDING`."""
    sent_bytes: int = 0
    """To workers of other processes."""
    received_bytes: int = 0
    lags: dict[str, dict[str, Lag]] = field(default_factory=dict[str, dict[str, Lag]])
    """How far behind its partitions of sources are, by step and name; of those that say so."""
    watermarks: dict[str, WatermarkSnapshot] = field(default_factory=dict[str, WatermarkSnapshot])
    """By step; of those that have one."""
    tasks: dict[str, TasksSnapshot] = field(default_factory=dict[str, TasksSnapshot])
    """By step; of those with tasks."""
    actors: dict[str, ActorsSnapshot] = field(default_factory=dict[str, ActorsSnapshot])
    """By step; of those with actors."""
    left_out: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    """How many records steps have gone on without after errors, by step and policy."""
    resources: dict[str, ResourceSnapshot] = field(default_factory=dict[str, ResourceSnapshot])
    """By name; only where tasks take any."""
    lent: dict[str, int] = field(default_factory=dict[str, int])
    """How many calls of tasks other workers were given to run, by step."""

    @property
    def backlog(self) -> bool:
        """Whether something waits to be worked on."""
        return self.settling or any(step.queued or step.held for step in self.steps.values())

    @property
    def done(self) -> tuple[int, int]:
        """What changes with everything that the worker gets done: items and epochs."""
        items = sum(step.items_in + step.items_out for step in self.steps.values())
        return items, self.epoch


class LeavingOut(Protocol):
    """A step that goes on after errors."""

    step_id: str
    policy: str
    count: int
    """How many records it has left out."""


class StepCounts:
    """Counts the work of one step on one worker."""

    __slots__ = (
        "_aligning_s",
        "_aligning_since_s",
        "_batch_sizes",
        "_duration_s",
        "_durations",
        "_held_s",
        "_items_out",
        "_next",
        "held_since_s",
        "items_in",
        "tally",
    )

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.items_in = 0
        self._items_out = 0
        self._batch_sizes = [0] * _BITS
        self._durations = [0] * _BITS
        self._duration_s = 0.0
        self._held_s = 0.0
        self.held_since_s: float | None = None
        """Since when its way out is full."""
        self._aligning_s = 0.0
        self._aligning_since_s: float | None = None
        self._next: StepCounts | None = None

    # What `engine.runtime._build` puts in the way of batches

    def incoming(self, push: Push, *, anew: bool = True) -> Push:
        """As `push`, which gives the step a batch, counted, and timed as `timing` does.

        Args:
            push: The way in.
            anew: The batch comes from another step; else from a part of this one, and was counted.
        """
        tally, sizes, timed = self.tally, self._batch_sizes, self.timing(push)

        def counted(batch: list[Any]) -> None:
            if anew:
                items = len(batch)
                self.items_in += items
                sizes[items.bit_length()] += 1
            if self.held_since_s is not None:
                self.let_go()
            if tally.timed:
                timed(batch)
            else:
                push(batch)

        return counted

    def outgoing(self, push: Push) -> Push:
        """As `push`, which takes what the step gives, counted."""

        def counted(batch: list[Any]) -> None:
            self._items_out += len(batch)
            push(batch)

        return counted

    def followed_by(self, step: StepCounts) -> None:
        """What this step gives is exactly what that one takes, so it need not be counted twice."""
        self._next = step

    def timing(self, call: Callable[P, R]) -> Callable[P, R]:
        """As `call`; if calls are timed now, less what other steps take that it calls in turn."""
        tally, now_s, durations = self.tally, self.tally.now_s, self._durations

        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            if not tally.timed:
                return call(*args, **kwargs)
            charged_s, began_s = tally.begin_call(), now_s()
            given = call(*args, **kwargs)
            spent_s = now_s() - began_s
            own_s = tally.end_call(charged_s, spent_s)
            self._duration_s += own_s
            durations[int(own_s * _MICROS).bit_length()] += 1
            return given

        return timed

    # What the worker and its stages say

    def hold(self) -> None:
        """There is something to do, and the way out is full."""
        if self.held_since_s is None:
            self.held_since_s = self.tally.now_s()

    def let_go(self) -> None:
        """It goes on."""
        if self.held_since_s is not None:
            self._held_s += self.tally.now_s() - self.held_since_s
            self.held_since_s = None

    def barrier(self, *, aligned: bool) -> None:
        """A barrier has come, the last one that its stage waited for or one before."""
        since_s = self._aligning_since_s
        if since_s is None:
            since_s = self.tally.now_s()
        self._aligning_since_s = None if aligned else since_s
        if aligned:
            self._aligning_s += self.tally.now_s() - since_s

    # What is taken of it

    def snapshot(self, queued: int | None) -> StepSnapshot:
        """All of it, with how many batches wait before the step."""
        now_s = self.tally.now_s()
        return StepSnapshot(
            self.items_in,
            self._items_out if self._next is None else self._next.items_in,
            _trimmed(self._batch_sizes),
            _trimmed(self._durations),
            self._duration_s,
            self._held_s + _since(self.held_since_s, now_s),
            self._aligning_s + _since(self._aligning_since_s, now_s),
            queued,
            self.held_since_s is not None,
        )


class Tally:
    """Counts the work of one worker.

    Args:
        now_s: The monotonic clock.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.now_s = now_s
        self.timed = True
        """Whether calls are timed now."""
        self._charged_s = 0.0
        """What the timed calls took, each second counted once."""
        self._calls_left = _TIMED_CALLS
        self._depth = 0
        self._steps: dict[str, StepCounts] = {}
        self._states: dict[str, SizedState] = {}
        self._leaving_out: list[LeavingOut] = []
        self._began_s = now_s()
        self._idle_s = 0.0

    def step(self, step_id: str) -> StepCounts:
        """The counts of a step."""
        return self._steps.setdefault(step_id, StepCounts(self))

    def watch(self, step_id: str, state: KeyedState) -> None:
        """Have the state of a step in the snapshots."""
        self._states[step_id] = SizedState(state)

    def watch_failures(self, failures: LeavingOut) -> None:
        """Have what a step leaves out in the snapshots."""
        self._leaving_out.append(failures)

    def begin_call(self) -> float:
        """A call begins that is timed; gives what `end_call` wants to know."""
        self._depth += 1
        return self._charged_s

    def end_call(self, charged_s: float, spent_s: float) -> float:
        """It has ended after so many seconds; gives how many of them were its own."""
        own_s = spent_s - (self._charged_s - charged_s)
        self._charged_s = charged_s + spent_s
        self._depth -= 1
        self._calls_left -= 1
        if self._depth == 0 and self._calls_left <= 0:
            # Not before the outermost call has ended: it must know of all that it called.
            self.timed = False
        return own_s

    def waiting(self, wait: Callable[[float], None]) -> Callable[[float], None]:
        """As `wait`, and the time that it takes isn't busy time."""

        def timed(seconds: float) -> None:
            if seconds <= 0.0:
                wait(seconds)
                return
            began_s = self.now_s()
            wait(seconds)
            self._idle_s += self.now_s() - began_s

        return timed

    def steps(self, queued: Mapping[StepCounts, int]) -> dict[str, StepSnapshot]:
        """What each step has done, given how many batches wait before which; it is timed anew."""
        self.timed, self._calls_left = True, _TIMED_CALLS
        return {name: step.snapshot(queued.get(step)) for name, step in self._steps.items()}

    def states(self) -> dict[str, StateSnapshot]:
        """What each keyed step has in memory."""
        return {
            name: StateSnapshot(state.keys, round(state.nbytes()))
            for name, state in self._states.items()
        }

    def left_out(self) -> dict[tuple[str, str], int]:
        """How many records steps have gone on without, by step and policy."""
        counts: dict[tuple[str, str], int] = {}
        for step in self._leaving_out:
            # What an operator is composed of goes by the operator's name.
            name = step.step_id, step.policy
            counts[name] = counts.get(name, 0) + step.count
        return counts

    def busy_s(self) -> float:
        """How long the worker was not waiting."""
        return self.now_s() - self._began_s - self._idle_s


def _since(moment_s: float | None, now_s: float) -> float:
    return 0.0 if moment_s is None else now_s - moment_s


def _trimmed(numbers: Sequence[int]) -> tuple[int, ...]:
    """Without the zeros at the end."""
    used = len(numbers)
    while used and not numbers[used - 1]:
        used -= 1
    return tuple(numbers[:used])
