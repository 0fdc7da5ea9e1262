"""A step whose calls may be run by other workers, and which runs theirs.

To its node it is an executor like any other, with the step's own behind it. See
`engine.runtime._lending` for how the workers go about it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.dataflow import f_repr
from engine.errors import UserCodeError
from engine.operators.tasks._executor import Call, Completion, Kind, RunningExecutor
from engine.operators.tasks._resources import Resources
from engine.operators.tasks._task import TaskKernel
from engine.runtime._errands import (
    AboutStep,
    Began,
    Cancel,
    Ended,
    Lend,
    Parcel,
    Queued,
    Recall,
    Recalled,
    Taken,
    not_sent,
)
from engine.runtime._frames import TooLongError
from engine.runtime._ids import WorkerIndex
from engine.runtime._ledger import Account
from engine.runtime._lending import TELL_S, Lending


@dataclass(slots=True)
class _Lent:
    """A call that another worker has."""

    guest: WorkerIndex
    argument: Any
    queued: bool
    """It waits there."""
    recalled: bool = False
    """It was asked for."""
    began_s: float | None = None


@dataclass(slots=True)
class _Run:
    """A call that runs here."""

    home: WorkerIndex
    call: int
    told: bool = False
    """Its home knows that it has begun, or needn't."""


@dataclass(slots=True)
class _Guests:
    """The calls of another worker that wait here."""

    place: Account
    """In the line of those who wait."""
    waiting: dict[int, tuple[Parcel, bool]] = field(default_factory=dict[int, tuple[Parcel, bool]])
    """By call; whether its home knows that it waits."""


class LentStep(RunningExecutor):
    """An executor that finds a worker for each call.

    Args:
        step_id: The step.
        kernel: What the user said of it.
        executor: Runs calls here.
        lending: Of the worker, which hears of the step.
        account: What calls that run here take resources by, under the numbers of their runs.
    """

    def __init__(
        self,
        step_id: str,
        kernel: TaskKernel,
        executor: RunningExecutor,
        lending: Lending,
        account: Account,
    ) -> None:
        self.demand = kernel.rules.resources or Resources()
        self.lent_count = 0
        """How many calls were lent."""
        self._step_id = step_id
        self._function = kernel.function
        self._timed = kernel.rules.timeout_s < math.inf
        self._executor = executor
        self._lending = lending
        self._me = lending.me
        lending.steps[step_id] = self
        self._account = account
        # As the home of calls.
        self._able = lending.able(kernel)
        self._own = lending.ledger.account() if lending.me in self._able else None
        """Its place in the line of those who wait, if it is one of the able."""
        self._waiting: dict[int, Any] = {}
        self._here: dict[int, int] = {}
        """Calls that run here, with the number of their run."""
        self._lent: dict[int, _Lent] = {}
        self._queued: set[int] = set()
        """Those of them that wait at their guest."""
        self._over: list[Completion] = []
        # As the guest of others'.
        self._guests: dict[WorkerIndex, _Guests] = {}
        self._runs: dict[int, _Run] = {}
        self._next_run = 0
        self._beginning: list[Call] = []
        self._unbegun: set[int] = set()
        """Runs whose homes want to know when they begin."""
        self._look_at_s = -math.inf

    # To its node

    def submit(self, calls: Sequence[Call]) -> None:
        """As in `RunningExecutor`."""
        self._waiting.update(calls)
        self._place()
        self._begin_all()

    def completions(self) -> list[Completion]:
        """As in `RunningExecutor`."""
        over, self._over = self._over, []
        return over

    def ended(self) -> bool:
        """As in `RunningExecutor`."""
        return bool(self._over)

    def started_s(self, call_id: int) -> float | None:
        """As in `RunningExecutor`."""
        run = self._here.get(call_id)
        if run is not None:
            return self._executor.started_s(run)
        lent = self._lent.get(call_id)
        return None if lent is None else lent.began_s

    def cancel(self, call_id: int) -> None:
        """As in `RunningExecutor`."""
        if call_id in self._waiting:
            del self._waiting[call_id]
            self._place()
            self._begin_all()
        elif call_id in self._here:
            self._give_up(self._here.pop(call_id))
        elif call_id in self._lent:
            self._lending.send(self._forget(call_id).guest, Cancel(self._step_id, call_id))

    def close(self, timeout_s: float) -> list[str]:
        """As in `RunningExecutor`."""
        return self._executor.close(timeout_s)

    # To its worker

    @property
    def count(self) -> int:
        """How many calls are here."""
        return len(self._runs) + self.guests_waiting

    @property
    def guests_waiting(self) -> int:
        """How many calls of others wait here."""
        return sum(len(guests.waiting) for guests in self._guests.values())

    def turn(self) -> None:
        """Hear of calls that have ended here, let others begin, here and elsewhere."""
        # A local for `engine.runtime._failure` to find.
        step_id = self._step_id  # noqa: F841 # pyright: ignore[reportUnusedVariable]
        for run, kind, value in self._executor.completions():
            self._end(run, kind, value)
        self._admit()
        self._place()
        self._begin_all()
        self._call_back()
        if self._unbegun and self._look_at_s <= self._lending.now_s():
            self._tell_of_begun()

    def wait_s(self) -> float:
        """In how many seconds `turn` has something to do if nothing comes."""
        if self._executor.ended() or (self._waiting and self._with_room() is not None):
            return 0.0
        demand = self.demand
        if any(guests.waiting and guests.place.has(demand) for guests in self._guests.values()):
            return 0.0
        if self._to_call_back() is not None:
            return 0.0
        if self._unbegun:
            return max(0.0, self._look_at_s - self._lending.now_s())
        return math.inf

    def hear(self, sender: WorkerIndex, errand: AboutStep) -> None:
        """Another worker says something."""
        # As in `turn`.
        step_id = self._step_id  # noqa: F841 # pyright: ignore[reportUnusedVariable]
        match errand:
            case Lend(_, call, argument, queued):
                self._guests_of(sender).waiting[call] = argument, queued
                self._admit()
                self._begin_all()
                self._tell_of_waiting(sender, call)
            case Recall(_, call):
                if self._guests_of(sender).waiting.pop(call, None) is not None:
                    self._leave_line(sender)
                    self._lending.send(sender, Recalled(self._step_id, call))
            case Cancel(_, call):
                self._cancel_for(sender, call)
            case _:
                self._hear_of_lent(sender, errand)

    # As the home of calls

    def _place(self) -> None:
        """Give calls to workers with room for them."""
        waiting = self._waiting
        while waiting and (worker := self._with_room()) is not None:
            call = next(iter(waiting))
            argument = waiting.pop(call)
            if worker == self._me:
                self._here[call] = self._begin(self._me, call, argument)
            else:
                self._lend(worker, call, argument, queued=False)
        if self._own is not None:
            if waiting:
                self._own.wait(self.demand)
            else:
                self._own.leave()
        elif waiting and not self._queued:
            worker = min(self._able, key=self._rank)
            call = next(iter(waiting))
            self._lend(worker, call, waiting.pop(call), queued=True)

    def _with_room(self, besides: WorkerIndex | None = None) -> WorkerIndex | None:
        """The least loaded worker that has what a call takes."""
        able = (w for w in self._able if w != besides and self._has_room(w))
        return min(able, key=self._rank, default=None)

    def _has_room(self, worker: WorkerIndex) -> bool:
        if worker == self._me:
            assert self._own is not None  # noqa: S101 - it is able
            return self._own.has(self.demand)
        free = self._lending.peers[worker].free
        return all(parts <= free.get(name, 0) for name, parts in self.demand.parts.items())

    def _rank(self, worker: WorkerIndex) -> tuple[float, int, int]:
        """The lower, the better: how much is taken of what a call takes; calls; how far it is."""
        lending = self._lending
        if worker == self._me:
            offer, free, calls = lending.ledger.offer, lending.ledger.free(), self.count
        else:
            peer = lending.peers[worker]
            offer, free, calls = peer.offer, peer.free, peer.calls
        taken = max((1 - free[name] / offer.parts[name] for name in self.demand.parts), default=0.0)
        return taken, calls, (worker - self._me) % lending.workers

    def _lend(self, guest: WorkerIndex, call: int, argument: Any, *, queued: bool) -> None:
        try:
            self._lending.send(guest, Lend(self._step_id, call, Parcel(argument), queued))
        except (TooLongError, UserCodeError) as ex:
            error = not_sent(f"the record of {f_repr(self._function)}", ex)
            self._over.append(Completion(call, Kind.RAISED, error))
            return
        self._lending.peers[guest].lend(self.demand)
        self._lent[call] = _Lent(guest, argument, queued)
        self.lent_count += 1
        if queued:
            self._queued.add(call)

    def _forget(self, call: int) -> _Lent:
        self._queued.discard(call)
        return self._lent.pop(call)

    def _hear_of_lent(self, sender: WorkerIndex, errand: AboutStep) -> None:
        """Of a call that may have been given up meanwhile, which isn't looked at."""
        call = errand.call
        lent = self._lent.get(call)
        if lent is None or lent.guest != sender:
            return
        match errand:
            case Queued():
                lent.queued = True
                self._queued.add(call)
            case Taken():
                lent.queued = lent.recalled = False
                self._queued.discard(call)
            case Recalled():
                self._waiting = {call: self._forget(call).argument, **self._waiting}
            case Began(_, _, ago_s):
                lent.began_s = self._lending.now_s() - ago_s
            case Ended(_, _, kind, value):
                self._forget(call)
                self._over.append(self._opened(call, kind, value))
            case _:
                raise AssertionError(errand)

    def _opened(self, call: int, kind: Kind, value: Parcel) -> Completion:
        try:
            return Completion(call, kind, value.open())
        except Exception as ex:  # noqa: BLE001 - of the user's own classes
            error = not_sent(f"what {f_repr(self._function)} gave", ex)
            return Completion(call, Kind.RAISED, error)

    def _to_call_back(self) -> int | None:
        """A call that waits at its guest while another worker has room."""
        if self._waiting:
            return None
        for call in self._queued:
            lent = self._lent[call]
            if not lent.recalled and self._with_room(besides=lent.guest) is not None:
                return call
        return None

    def _call_back(self) -> None:
        while (call := self._to_call_back()) is not None:
            lent = self._lent[call]
            lent.recalled = True
            self._lending.send(lent.guest, Recall(self._step_id, call))

    # As the guest of others' calls

    def _guests_of(self, home: WorkerIndex) -> _Guests:
        guests = self._guests.get(home)
        if guests is None:
            guests = self._guests[home] = _Guests(self._lending.ledger.account())
        return guests

    def _place_of(self, home: WorkerIndex) -> Account:
        if home == self._me:
            assert self._own is not None  # noqa: S101 - it is able
            return self._own
        return self._guests_of(home).place

    def _admit(self) -> None:
        """Let calls of others begin for which there is room."""
        for home, guests in self._guests.items():
            waiting, place = guests.waiting, guests.place
            while waiting and place.has(self.demand):
                call = next(iter(waiting))
                argument, known = waiting.pop(call)
                if known:
                    self._lending.send(home, Taken(self._step_id, call))
                try:
                    opened = argument.open()
                except Exception as ex:  # noqa: BLE001 - of the user's own classes
                    error = not_sent(f"the record of {f_repr(self._function)}", ex)
                    self._send_end(home, call, Kind.RAISED, error)
                    continue
                self._begin(home, call, opened)
            if waiting:
                place.wait(self.demand)

    def _begin(self, home: WorkerIndex, call: int, argument: Any) -> int:
        """Begin a call for which there is room; gives the number of the run."""
        run = self._next_run
        self._next_run = run + 1
        taken = self._account.take(run, self.demand, self._place_of(home))
        assert taken  # noqa: S101 - it was asked before
        self._runs[run] = _Run(home, call)
        self._beginning.append(Call(run, argument))
        if self._timed and home != self._me:
            self._unbegun.add(run)
        return run

    def _begin_all(self) -> None:
        if self._beginning:
            beginning, self._beginning = self._beginning, []
            self._executor.submit(beginning)

    def _tell_of_waiting(self, home: WorkerIndex, call: int) -> None:
        waiting = self._guests_of(home).waiting
        argument, known = waiting.get(call, (None, True))
        if argument is not None and not known:
            waiting[call] = argument, True
            self._lending.send(home, Queued(self._step_id, call))

    def _tell_of_begun(self) -> None:
        now_s = self._lending.now_s()
        self._look_at_s = now_s + TELL_S
        for run in sorted(self._unbegun):
            began_s = self._executor.started_s(run)
            if began_s is not None:
                self._unbegun.discard(run)
                where = self._runs[run]
                ago_s = now_s - began_s
                self._lending.send(where.home, Began(self._step_id, where.call, ago_s))

    def _end(self, number: int, kind: Kind, value: Any) -> None:
        """A run is over; one that was given up isn't looked at."""
        run = self._runs.pop(number, None)
        if run is None:
            return
        self._account.give_back(number)
        self._unbegun.discard(number)
        if run.home == self._me:
            del self._here[run.call]
            self._over.append(Completion(run.call, kind, value))
        else:
            self._send_end(run.home, run.call, kind, value)

    def _send_end(self, home: WorkerIndex, call: int, kind: Kind, value: Any) -> None:
        load = self._lending.load_for(home)
        try:
            self._lending.send(home, Ended(self._step_id, call, kind, Parcel(value), load))
        except (TooLongError, UserCodeError) as ex:
            error = not_sent(f"what {f_repr(self._function)} gave", ex)
            ended = Ended(self._step_id, call, Kind.RAISED, Parcel(error), load)
            self._lending.send(home, ended)

    def _cancel_for(self, home: WorkerIndex, call: int) -> None:
        if self._guests_of(home).waiting.pop(call, None) is not None:
            self._leave_line(home)
            return
        for number, run in self._runs.items():
            if (run.home, run.call) == (home, call):
                self._give_up(number)
                return

    def _leave_line(self, home: WorkerIndex) -> None:
        guests = self._guests_of(home)
        if not guests.waiting:
            guests.place.leave()

    def _give_up(self, number: int) -> None:
        del self._runs[number]
        self._account.give_back(number)
        self._unbegun.discard(number)
        self._executor.cancel(number)
