"""What a crashed job lives in: its lives, what ends them, and the ports that its store is given."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from random import Random
from unittest.mock import patch

from engine.recovery import _changes, _log
from engine.recovery._apply import ApplyOptions
from engine.recovery._backups import BackupOptions
from engine.recovery._fakes import FakeDisk
from engine.recovery._worker_store import StoreOptions
from engine.runtime._recovery import JobStore
from engine.testing.sim._gang import Gang
from engine.testing.sim._world import FakeClock


@dataclass(frozen=True)
class Incident:
    """What happens to a life, and when."""

    kind: str
    """ "power", "kill" or "pause"."""
    turn: float = inf
    """After so many turns."""
    op: int = 0
    """Or before this operation of the disk, the last one of a process that dies."""
    link: int = 0
    """Or right after it has added so many links to the chain, before the last one is safe."""

    def is_due_amid(self, life: Life) -> bool:
        """Whether it comes before the operation that a life is about to do."""
        return life.disk.ops + 1 == self.op or life.links == self.link > 0

    def __str__(self) -> str:
        at = f"link {self.link}" if self.link else f"disk operation {self.op}"
        return f"{self.kind} at {at if self.turn == inf else f'turn {self.turn}'}"


def draw_incident(rng: Random, *, restless: bool, pauses: bool) -> Incident:
    """One of all kinds.

    Args:
        rng: Draws it.
        restless: While the store is opened, or soon after: few lives come to their first epoch.
        pauses: Whether the process may be paused.
    """
    kind = rng.choice(("power", "power", "kill", "pause", "pause"))
    if kind == "pause" and not pauses:
        kind = "kill"
    where = rng.random()
    if where < 0.2:
        return Incident(kind, link=1 + int(rng.expovariate(1 / (1 if restless else 5))))
    if where < 0.5:
        return Incident(kind, turn=int(rng.expovariate(1 / (50 if restless else 250))))
    if restless:
        return Incident(kind, op=rng.randint(1, 60))
    return Incident(kind, op=1 + int(rng.expovariate(1 / 100)))


class Life:
    """One run of the job: a process of its own, with a view of the disk of its own."""

    def __init__(self, number: int, workers: int, disk: FakeDisk) -> None:
        self.number = number
        self.workers = workers
        self.disk = disk
        self.turns = 0
        self.links = 0
        """How many it has added to the chain."""
        self.busy = False
        """One of its calls is under way, so it can't be given another."""
        self.over = False
        self.met_others = False
        """Another process was at work while this one was."""
        self.recovery: JobStore | None = None
        self.gang: Gang | None = None
        self.replaying = False
        """It began with requests about dead letters."""

    def __str__(self) -> str:
        return f"life {self.number}"

    def turn(self) -> None:
        """Do one thing."""
        gang, recovery = self.gang, self.recovery
        assert gang is not None
        assert recovery is not None
        self.turns += 1
        gang.turn()
        if gang.stopped:
            self.recovery = None
            recovery.close()
            self.over = True


class BusyClock:
    """The clock as the store sees it: each look at it takes a moment, so that work takes time."""

    def __init__(self, clock: FakeClock, rng: Random) -> None:
        self._clock = clock
        self._rng = rng

    def monotonic_s(self) -> float:
        self._clock.advance(self._rng.random() * 0.001)
        return self._clock.monotonic_s()

    def time_s(self) -> float:
        return self._clock.time_s()


@dataclass
class ClockWaiter:
    """Lets time pass."""

    clock: FakeClock

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)


@dataclass
class Tokens:
    """Names that were never given before."""

    given: int = 0

    def token(self) -> str:
        self.given += 1
        return f"token{self.given}"


def small_store(rng: Random, clock: FakeClock, *, backups: bool) -> StoreOptions:
    """Stores that merge, flush and copy all the time, as a big job's do in hours."""
    apply = ApplyOptions(
        merge_bytes=rng.choice((1, 5_000, 20_000)),
        waiting_bytes_max=50_000,
        flush_bytes=rng.choice((100, 2_000, 10_000)),
        files_max=rng.choice((2, 16)),
    )
    backup: BackupOptions | None = None
    if backups and rng.random() < 0.5:
        backup = BackupOptions(timedelta(seconds=rng.choice((0, 2, 20))), clock.time_s)
    return StoreOptions(apply=apply, backup=backup)


@contextmanager
def small_files(rng: Random) -> Generator[None]:
    """Chunks of some rows, and log files of some epochs."""
    with (
        patch.object(_changes, "CHUNK_ROWS", 3),
        patch.object(_log, "SEGMENT_BYTES_MAX", rng.choice((500, 4000))),
    ):
        yield
