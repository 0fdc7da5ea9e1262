"""Runs the crash job over the real store, through everything that may happen to it.

A *life* is one run of the job, from opening the store to its end. Incidents end or supersede it:

- the power is cut: all processes die, and whatever was not synced is lost or torn;
- the process is killed: what the system knew stays;
- the process is paused and taken for dead; later, or in between, it goes on as a *zombie*.

Each may come between two turns or amid any operation of the disk, also while the store is opened or
dealt to another number of workers. Two processes that are alive take turns amid each other's
operations too. After a drawn number of incidents they stop, and the job must come to its end.

All of it is drawn from one seed, so `python -m tests.sim.replay store SEED` shows the same again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from engine.clock import clock_set_to
from engine.dataflow import Dataflow
from engine.errors import EngineError, FencedError
from engine.recovery._fakes import FakeDisk, MemoryTables, SimulatedCrash
from engine.recovery._layout import StorePaths
from engine.runtime import Plan, deal_partitions, plan
from engine.runtime._recovery import JobStore, RecoveredJob, StoreWorld
from engine.testing.sim._gang import Gang
from engine.testing.sim._options import SimOptions
from engine.testing.sim._world import FakeClock
from tests.sim.chain_watch import ChainWatch
from tests.sim.crash_checks import check_ended, check_opened, check_sound
from tests.sim.crash_job import EXTRAS, Outside, check_output, flow_of
from tests.sim.crash_world import (
    BusyClock,
    ClockWaiter,
    Incident,
    Life,
    Tokens,
    draw_incident,
    small_files,
    small_store,
)


class _Broken(BaseException):
    """Something doesn't hold. No `Exception`: it may come amid another life's work."""

    def __init__(self, error: Exception) -> None:
        self.error = error


ROOT = Path("/store")
MANIFESTS = StorePaths(ROOT).manifests
TURNS_MAX = 15_000
"""How many turns a life may take: about three times what the longest does."""
ZOMBIES_MAX = 2


def check_clocked_store(seed: int) -> Counter[str]:
    """As `check_store`, where the job has a step with a stream clock."""
    run = CrashRun(seed, ["clock"])
    run.run()
    return run.counts


def check_store(seed: int) -> Counter[str]:
    """Run the job of a seed to its end and check it; gives what happened, counted."""
    run = CrashRun(seed)
    run.run()
    return run.counts


class CrashRun:
    """The job's whole history.

    Args:
        seed: Draws it.
        extras: What the job has besides what is drawn.

    Attributes:
        counts: How many crashes, rescales and so on there have been.
        log: What happened, for people.
    """

    workers_max = 3
    batches_of_one = 1
    """What a batch may become on its way to another stage."""

    def __init__(self, seed: int, extras: Sequence[str] = ()) -> None:
        self.counts: Counter[str] = Counter()
        self.log: list[str] = []
        self.lives: list[Life] = []
        """Those that aren't over, oldest first."""
        self.current: Life | None = None
        """The newest, unless it is taken for dead."""
        rng = self._rng = Random(seed)
        self._disk = FakeDisk()
        self._clock = FakeClock(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
        self._chain = ChainWatch(self._disk, ROOT)
        extras = [*extras, *rng.sample(EXTRAS, rng.choice((0, 1, 1, 2)))]
        # Half of the seeds are without outages, to go straight for what crashes alone do.
        weather = Random(str(seed)) if seed % 2 else None
        self._outside = self._make_outside(seed, extras, weather)
        self._workers = rng.randint(1, self.workers_max)
        self._options = self._draw_options()
        self._zombies = rng.random() < 0.7
        self._zombie_share = rng.choice((0.1, 0.3, 0.6))
        self._store_options = small_store(rng, self._clock, backups=not self._zombies)
        self._restless = rng.random() < 0.3
        self._incidents_left = rng.randint(4, 12) if self._restless else rng.randint(1, 5)
        self._incident: Incident | None = None
        self._plans: dict[int, tuple[Dataflow, Plan]] = {}
        self._tokens = Tokens()
        self._depth = 0
        self._note(f"a job with {extras}; {self._options}; {self._store_options}")

    def run(self) -> None:
        """Live through all of it, to the job's end.

        Raises:
            AssertionError: Something did not hold.
            EngineError: The job ended by an error that nothing explains.
        """
        with clock_set_to(self._now), small_files(self._rng):
            try:
                self._live()
            except _Broken as ex:
                raise ex.error from None
            self._check_end()

    def _live(self) -> None:
        while self.current is None or not self.current.over:
            if self.current is None:
                self._start()
            else:
                self._turn(self._next_life())

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.time_s(), UTC)

    def _note(self, what: str) -> None:
        self.log.append(f"{self._clock.monotonic_s():9.3f}  {what}")

    def _check_end(self) -> None:
        self._chain.look()
        assert self._chain.newest is not None
        self.counts["epochs"] = self._chain.newest.epoch
        self._check_output()
        last = Life(0, self._workers, self._disk.shared())
        recovery = self._open_store(last)
        self._check_ended(recovery)
        recovery.close()
        check_sound(last.disk, ROOT)

    # The job

    def _make_outside(self, seed: int, extras: Sequence[str], weather: Random | None) -> Outside:
        return Outside(self._rng, extras, self._chain.durable_epoch, weather)

    def _draw_options(self) -> SimOptions:
        return _draw_options(self._rng)

    def _flow(self) -> Dataflow:
        return flow_of(self._outside)

    def _check_opened(self, recovery: JobStore) -> None:
        check_opened(recovery, self._outside)

    def _check_ended(self, recovery: JobStore) -> None:
        check_ended(recovery, self._outside)

    def _check_output(self) -> None:
        check_output(self._outside)

    # Lives

    def _next_life(self) -> Life:
        """Whose turn it is: mostly the newest life's, else a zombie's."""
        assert self.current is not None
        idle = [life for life in self.lives if life is not self.current and not life.busy]
        if idle and self._rng.random() < self._zombie_share:
            return self._rng.choice(idle)
        return self.current

    def _start(self) -> None:
        """Begin a new life, which may not get far."""
        rng = self._rng
        if rng.random() < 0.4:
            self._workers = rng.randint(1, self.workers_max)
        self.counts["lives"] += 1
        life = Life(self.counts["lives"], self._workers, self._disk.shared())
        life.met_others = bool(self.lives)
        life.disk.before_op = lambda what, path: self._before_op(life, what, path)
        self._incident = None
        if self._incidents_left:
            self._incidents_left -= 1
            pauses = self._zombies and len(self.lives) < ZOMBIES_MAX
            self._incident = self._draw_incident(pauses=pauses)
        self._note(f"{life} begins with {life.workers} workers; then {self._incident}")
        self.current = life
        self.lives.append(life)
        self._do(life, lambda: self._open(life))

    def _draw_incident(self, *, pauses: bool) -> Incident:
        return draw_incident(self._rng, restless=self._restless, pauses=pauses)

    def _open(self, life: Life) -> None:
        if not life.met_others and self._chain.newest is not None and self._rng.random() < 0.2:
            check_sound(self._disk.shared(), ROOT)
        before = self._chain.newest
        life.recovery = self._open_store(life)
        if life is self.current:
            # A zombie that gets so far sees some of what came after it. It can't do any harm.
            self._check_opened(life.recovery)
        if before is not None and before.workers != life.workers:
            self.counts["rescales"] += 1
        options = replace(self._options, workers=life.workers)
        seed, (_, planned) = self._rng.getrandbits(32), self._planned(life)
        life.gang = Gang(planned, seed, options, recovery=life.recovery, clock=self._clock)
        life.gang.start()

    def _open_store(self, life: Life) -> JobStore:
        flow, planned = self._planned(life)
        world = StoreWorld(
            life.disk,
            MemoryTables(life.disk),
            BusyClock(self._clock, self._rng),
            self._tokens,
            ClockWaiter(self._clock),
            lambda line: self._note(f"{life}: {line}"),
            self._store_options,
        )
        job = RecoveredJob(ROOT, flow, planned, deal_partitions(planned), create=True)
        return JobStore.open(job, world)

    def _planned(self, life: Life) -> tuple[Dataflow, Plan]:
        workers = life.workers
        if workers not in self._plans:
            flow = self._flow()
            self._plans[workers] = flow, plan(flow, workers)
        return self._plans[workers]

    def _turn(self, life: Life) -> None:
        incident = self._incident
        if life is self.current and incident is not None and life.turns >= incident.turn:
            self._strike(life, incident)
            return
        self._do(life, life.turn)
        if life.over and life in self.lives and life is not self.current:
            self._bury(life)

    def _do(self, life: Life, action: Callable[[], None]) -> None:
        """Let a life do something, which may be the last thing that it does."""
        life.busy = True
        try:
            action()
        except SimulatedCrash:
            if not life.over:
                assert self._incident is not None
                self._end(life, self._incident.kind)
        except Exception as ex:
            if not self._may_fail(life, ex):
                raise _Broken(ex) from ex
            if not life.over:
                self._give_up(life, ex)
        finally:
            life.busy = False
        if life.gang is not None:
            # One more batch for what a batch or the end became, then a barrier, and the end.
            bound = self._options.channel_batches + self.batches_of_one + 2
            assert life.gang.result.queued_max <= bound, "a queue is longer than its bound"

    def _may_fail(self, life: Life, error: Exception) -> bool:
        """Only a process that another has got in the way of may end by an error."""
        cause = error.__cause__ or error
        if isinstance(cause, AssertionError) or not isinstance(error, EngineError):
            return False
        return life is not self.current or (life.met_others and isinstance(cause, FencedError))

    def _give_up(self, life: Life, error: Exception) -> None:
        self._note(f"{life} gives up: {error}")
        self.counts["fenced"] += 1
        self._bury(life)
        if life.recovery is not None:
            life.recovery.close()

    # Incidents

    def _strike(self, life: Life, incident: Incident) -> None:
        """End or supersede the newest life."""
        if incident.kind == "pause":
            self._note(f"{life} is paused")
            self.counts["zombies"] += 1
            self._incident = None
            self.current = None
        else:
            self._end(life, incident.kind)

    def _end(self, life: Life, kind: str) -> None:
        """A process dies; all of them if the power is cut."""
        rng = self._rng
        last = life.disk.trace[-1] if life.disk.trace else "nothing"
        self._note(f"{life} ends: {kind}, at disk operation {life.disk.ops}, which was {last}")
        self.counts["crashes"] += 1
        self._incident = None
        if kind == "power":
            for other in [other for other in self.lives if other is not life]:
                self._bury(other)
                other.disk.kill(rng)
            self._outside.lose_unsynced()
        self._bury(life)
        life.disk.after_crash(rng.getrandbits(32), power=kind == "power")
        self._chain.look()

    def _bury(self, life: Life) -> None:
        life.over = True
        self.lives.remove(life)
        if life is self.current:
            self.current = None

    # Amid operations of the disk

    def _before_op(self, life: Life, what: str, path: Path) -> None:
        """Let others have a turn here, or stop the process for a while right here."""
        self._chain.before_op(what, path)
        if life.over or not life.busy:
            return
        if what == "unlink" and path.parent == MANIFESTS and path.suffix == ".tmp":
            life.links += 1
        incident = self._incident
        if life is self.current and incident is not None and incident.is_due_amid(life):
            self._strike_amid(life, incident, f"{what} {path.name}")
            return
        # Most of what can go wrong between two does so while the store is opened.
        if len(self.lives) > 1 and self._rng.random() < (0.15 if life.gang is None else 0.04):
            self._let_others(life, self._rng.randint(1, 20))

    def _strike_amid(self, life: Life, incident: Incident, op: str) -> None:
        if incident.kind == "pause":
            self._note(f"{life} is about to {op}")
            self._strike(life, incident)
            self._let_others(life, self._rng.choice((0, 5, 50, 300)))
        else:
            life.disk.crash_at = life.disk.ops + 1

    def _let_others(self, life: Life, turns: int) -> None:
        if self._depth > 2:
            return
        self._depth += 1
        life.met_others = True
        try:
            for _ in range(turns):
                if life.over or (self.current is not None and self.current.over):
                    break
                if self.current is None:
                    self._start()
                elif idle := [other for other in self.lives if not other.busy]:
                    self._turn(self._rng.choice(idle))
        finally:
            self._depth -= 1


def _draw_options(rng: Random) -> SimOptions:
    return SimOptions(
        epoch_interval=timedelta(seconds=rng.choice((0, 0, 0.05, 0.5))),
        channel_batches=rng.choice((1, 2, 2)),
        step_max=timedelta(milliseconds=20),
        delay_max=timedelta(seconds=rng.choice((0, 0.02, 0.5))),
        pause_max=timedelta(seconds=rng.choice((0, 1))),
        state_bytes_max=rng.choice((None, 1, 1500)),
        steps_max=TURNS_MAX,
    )
