"""Steps with a clock, driven by hand, beside what a reader of the definitions expects of them.

A script is a list of acts. `Driver` does them on a kernel's logic; `Course` says of each value,
from the definition of watermarks alone, whether it is late, and where the watermark of each key is
after each act.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st

import engine.operators.windowing as win
from engine.operators._kernels import StepContext
from engine.operators._state import KeyedState
from engine.operators._time_axis import END_US
from engine.operators.windowing._clocked import ClockedKernel
from tests.operators.timed import at

KEYS = ("a", "b")
NEVER = -math.inf
END = math.inf


@dataclass(frozen=True)
class Batch:
    """Values of one input come: keys with (time in seconds, number)."""

    port: int
    records: list[Any]


@dataclass(frozen=True)
class Wait:
    """The wall clock goes on."""

    seconds: int


@dataclass(frozen=True)
class Rise:
    """The watermark of the stream is there now."""

    seconds: int


@dataclass(frozen=True)
class Restart:
    """The run is over, and another one begins with what was saved."""


@dataclass(frozen=True)
class End:
    """All input has ended; what comes then is from a later run."""


Act = Batch | Wait | Rise | Restart | End


def clock(kind: str, wait: int = 0) -> Any:
    """The clock of a kind, reading times as they are here."""
    if kind == "system":
        return win.SystemClock()
    scope: Any = "stream" if kind == "stream" else "key"
    return win.EventClock(lambda value: at(value[0]), timedelta(seconds=wait), scope=scope)


def scripts(kind: str, ports: int) -> st.SearchStrategy[list[Act]]:
    """Scripts for a clock, with values that are all different, and times that mostly rise."""
    keys = st.sampled_from((KEYS[0], *KEYS))
    values = st.lists(st.tuples(keys, st.integers(0, 6)), min_size=1, max_size=6)
    batches = st.tuples(st.integers(0, ports - 1), st.integers(0, 3), values)
    passing = st.integers(0, 6).map(Rise) if kind == "stream" else st.integers(0, 4).map(Wait)
    acts: list[st.SearchStrategy[Any]] = [batches] * 5
    acts += [passing, passing, st.builds(Restart), st.builds(End)]
    return st.lists(st.one_of(acts), min_size=3, max_size=14).map(_placed)


def long_script(seed: int, kind: str, ports: int) -> list[Act]:
    """A script of one key with much in it, most of which is on time."""
    rng = random.Random(seed)
    acts: list[Any] = []
    for _ in range(15):
        values = [(KEYS[0], rng.randint(2, 6)) for _ in range(rng.randint(1, 4))]
        acts.append((rng.randrange(ports), rng.randint(0, 2), values))
        if kind == "stream":
            acts.append(Rise(rng.randint(0, 3)))
        elif rng.random() < 0.2:
            acts.append(Wait(1))
    return _placed(acts)


def _placed(acts: list[Any]) -> list[Act]:
    """Acts in the course of time, with values that have numbers."""
    placed: list[Act] = []
    begin = count = 0
    for act in acts:
        if isinstance(act, Rise):
            placed.append(Rise(begin + act.seconds))
        elif isinstance(act, tuple):
            port, step, values = act
            begin += step
            numbered = enumerate(values, count)
            placed.append(Batch(port, [(key, (begin + at, n)) for n, (key, at) in numbered]))
            count += len(values)
        else:
            placed.append(act)
    return [*placed, End()]


class Driver:
    """A kernel's logic on a worker of its own, with what it saves."""

    def __init__(self, kernel: ClockedKernel) -> None:
        self._kernel = kernel
        self._seconds = 0
        self.late: list[Any] = []
        self._rows: dict[Any, Any] = {}
        self._due_s: dict[Any, float | None] = {}
        self.state, self.logic = self._begin()

    def _begin(self) -> tuple[KeyedState, Any]:
        state = KeyedState()
        now_s: Callable[[], float] = lambda: at(self._seconds).timestamp()  # noqa: E731
        progress = SimpleNamespace(epoch=1)
        logic: Any = self._kernel.start(
            StepContext("s", 0, 1, progress, now_s, state, (self.late,))
        )
        state.attach(self)
        logic.timers.attach(lambda until_s: self._scan(state, until_s), 0.0)
        return state, logic

    # What a store has.

    def load(self, key: Any) -> Any:
        return copy.deepcopy(self._rows.get(key))

    def load_many(self, keys: list[Any]) -> list[Any]:
        return [self.load(key) for key in keys]

    def is_empty(self) -> bool:
        return not self._rows

    def keys(self) -> Iterable[Any]:
        return list(self._rows)

    def _scan(self, state: KeyedState, until_s: float) -> list[Any]:
        due = [(due_s, key) for key, due_s in self._due_s.items() if due_s is not None]
        return sorted(row for row in due if row[0] <= until_s and not state.knows(row[1]))

    def save(self) -> None:
        """An epoch ends."""
        changes = self.state.barrier()
        self._rows |= copy.deepcopy(dict(zip(changes.keys, changes.stored, strict=True)))
        assert changes.due_s is not None
        self._due_s |= dict(zip(changes.keys, changes.due_s, strict=True))
        for key in changes.gone:
            self._rows.pop(key, None)
            self._due_s.pop(key, None)

    def do(self, act: Act) -> tuple[list[Any], list[Any]]:
        """What comes out of an act, and what is late."""
        self.late.clear()
        out: list[Any] = []
        match act:
            case Batch(port, records):
                out += self.logic.on_batch(port, list(records))
            case Wait(seconds):
                self._seconds += seconds
            case Rise(seconds):
                out += self.logic.on_watermark(round(at(seconds).timestamp() * 1e6))
            case End():
                out += self.logic.on_eof()
                self._restart()
            case Restart():
                self._restart()
        out += self._rung()
        return out, list(self.late)

    def _rung(self) -> list[Any]:
        """What timers let out that are due."""
        due_s = self.logic.next_due_s()
        if due_s is None or due_s > at(self._seconds).timestamp():
            return []
        return self.logic.on_notify()

    def _restart(self) -> None:
        axis = self.logic.axis
        axis.sample()
        self.save()
        self.state, self.logic = self._begin()
        self.logic.axis.resume(axis.now_us)

    def entries(self) -> list[Any]:
        """What is known of each key that is in memory; a timer sees to it that none stays."""
        entries = self.state.touched | self.state.rest
        for key, entry in entries.items():
            assert key in self.logic.timers.due_s or self.logic.due_us(entry) == END_US
        return list(entries.values())


@dataclass
class Value:
    """A value that came."""

    act: int
    """The number of the act in which it came."""
    port: int
    key: Any
    at: float
    what: Any
    late: bool = False


@dataclass
class Course:
    """What the definitions say of a script: which values are late, and the watermarks."""

    kind: str
    waits: tuple[int, ...]
    values: list[Value] = field(default_factory=list)
    marks: list[dict[Any, float]] = field(default_factory=list)
    """After each act, the watermark of each key."""

    @classmethod
    def of(cls, script: list[Act], kind: str, *waits: int) -> Course:
        """Follow a script."""
        course = cls(kind, waits)
        now, risen = 0, NEVER
        came: list[tuple[Any, float]] = []
        """Of each value, its key and what it says of the watermark at the wall's zero."""

        def mark(key: Any) -> float:
            if kind == "system":
                return now
            if kind == "stream":
                return risen
            return max((says + now for of, says in came if of == key), default=NEVER)

        for number, act in enumerate(script):
            if isinstance(act, Wait):
                now += act.seconds
            elif isinstance(act, Rise):
                risen = max(risen, act.seconds)
            elif isinstance(act, Batch):
                for key, what in act.records:
                    when = now if kind == "system" else what[0]
                    came.append((key, when - waits[act.port] - now))
                    late = when < mark(key)
                    course.values.append(Value(number, act.port, key, when, what, late))
            course.marks.append({key: mark(key) for key in KEYS})
        return course

    def until(self, act: int) -> list[Value]:
        """The values in time that have come by the end of an act."""
        return [value for value in self.values if value.act <= act and not value.late]
