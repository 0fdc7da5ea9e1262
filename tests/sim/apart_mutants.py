"""Ways to break what actors have done apart from them, each of which a seed must bring to light."""

from __future__ import annotations

from typing import Any

import pytest

from engine.operators._state import StateChanges
from engine.operators.actors import Actor, Context, _handling
from engine.operators.actors._apart import Outcome
from engine.operators.actors._life import Life
from engine.operators.actors._mail import RESULT, Mail, unpacked
from engine.runtime._actor_calls import End
from engine.runtime._actor_state import ActorState
from engine.runtime._actor_table import ActorTable
from engine.runtime._mailboxes import Mailboxes
from tests.sim.apart import check_apart_store
from tests.sim.mutant import Mutant

Patch = pytest.MonkeyPatch


# Tasks


def _begun_though_the_handler_raised(patch: Patch) -> None:
    """A task is submitted when it is asked for."""
    roll_back = ActorTable._roll_back

    def begun(self: ActorTable, actor: Actor, *args: Any) -> None:
        requests = list(self._ctx.requests)
        tasks = {number: self._ctx.life().tasks[number] for number, _ in requests}
        roll_back(self, actor, *args)
        if requests:
            actor.life = actor.life or Life()
            actor.life.tasks.update(tasks)
            actor.life.next_ask = max(tasks) + 1
            self._ctx.requests += requests
            self._begin_tasks(self.boxes.address(self._ctx.self))

    patch.setattr(ActorTable, "_roll_back", begun)


def _requests_not_saved(patch: Patch) -> None:
    barrier = ActorState.barrier

    def without(self: ActorState) -> StateChanges:
        requests, self.requests = self.requests, {}
        changes = barrier(self)
        self.requests = requests
        return changes

    patch.setattr(ActorState, "barrier", without)


def _ended_requests_not_deleted(patch: Patch) -> None:
    """They are made again by each run."""
    patch.setattr(
        ActorState, "end_task", lambda self, *task: self.requests.pop(task, None) and None
    )


def _ends_of_tasks_heard_twice(patch: Patch) -> None:
    """By the table, and by the actor, which doesn't note that a task has ended."""

    def twice(actor: Actor, ctx: Context, mail: Mail, task: int) -> None:
        if actor.life is not None and task in actor.life.tasks:
            on_result, on_error = ctx.life().tasks[task]
            name = on_result if mail[0] == RESULT else on_error
            assert name is not None
            getattr(actor, name)(ctx, unpacked(mail[1]))

    def put_twice(self: ActorTable, ended: End, now_s: float) -> None:
        end(self, ended, now_s)
        if ended.order.task is not None:
            self.boxes.put(ended.order.address, ended.mail())

    end = ActorTable.end
    patch.setattr(_handling, "_take_end", twice)
    patch.setattr(ActorTable, "end", put_twice)


def _ended_with_tasks_under_way(patch: Patch) -> None:
    patch.setattr(Mailboxes, "idle", property(lambda self: not self._mail))


# Handlers that run apart


def _taken_out_when_sent(patch: Patch) -> None:
    """What is being handled apart counts as handled."""
    away: dict[tuple[int, Any], Mail] = {}
    hold = Mailboxes.hold

    def send(self: Mailboxes, address: Any, mails: list[Mail]) -> None:
        hold(self, address, mails[1:])
        away[id(self), address] = mails[0]
        self.pending -= 1

    def let_go(self: Mailboxes, address: Any) -> Mail:
        self._blocked.discard(address)
        if self._mail[address]:
            self._ready.append(address)
        else:
            del self._mail[address]
        self.pending += 1
        return away.pop((id(self), address))

    patch.setattr(Mailboxes, "hold", send)
    patch.setattr(Mailboxes, "let_go", let_go)


def _next_message_meanwhile(patch: Patch) -> None:
    """An actor has its next turn though a handler of it runs."""
    hold = Mailboxes.hold

    def go_on(self: Mailboxes, address: Any, mails: list[Mail]) -> None:
        hold(self, address, mails)
        self._blocked.discard(address)
        self._ready.append(address)

    patch.setattr(Mailboxes, "hold", go_on)


def _timers_fire_meanwhile(patch: Patch) -> None:
    """A handler that runs apart brings back the timers that there were before."""
    handle = ActorTable._handle_apart

    def unnoted(self: ActorTable, *args: Any) -> int:
        handled = handle(self, *args)
        self._apart.clear()
        return handled

    patch.setattr(ActorTable, "_handle_apart", unnoted)


def _state_left_as_it_was(patch: Patch) -> None:
    """Of what a handler did apart, all counts but the state."""
    apply = ActorTable._apply

    def keep(self: ActorTable, address: Any, actor: Actor, mail: Mail, outcome: Outcome) -> Any:
        same = outcome._replace(values=dict(vars(actor.state)))
        return apply(self, address, actor, mail, same)

    patch.setattr(ActorTable, "_apply", keep)


def _state_not_saved(patch: Patch) -> None:
    """The actor of a handler that has come back doesn't count as changed."""
    end = ActorTable._end_apart

    def untouched(self: ActorTable, address: Any, ended: End) -> None:
        was = address in self.state.touched
        end(self, address, ended)
        if not was and self.state.tracked and address in self.state.touched:
            self.state.rest[address] = self.state.touched.pop(address)

    patch.setattr(ActorTable, "_end_apart", untouched)


def _failed_calls_forgiven(patch: Patch) -> None:
    """A handler that has failed is as good as one that has returned."""
    end = ActorTable._end_apart

    def forgiven(self: ActorTable, address: Any, ended: End) -> None:
        actor = self.state.get(address)
        nothing = Outcome(dict(vars(actor.state)), None, [], [], [], *[False] * 3, None)
        if ended.error is not None:
            ended = ended._replace(error=None, result=nothing)
        end(self, address, ended)

    patch.setattr(ActorTable, "_end_apart", forgiven)


APART_MUTANTS = [
    Mutant(function.__name__.strip("_").replace("_", " "), function, check_apart_store, seed)
    for function, seed in (
        (_begun_though_the_handler_raised, 17),
        (_requests_not_saved, 1),
        (_ended_requests_not_deleted, 1),
        (_ends_of_tasks_heard_twice, 1),
        (_ended_with_tasks_under_way, 1),
        (_taken_out_when_sent, 0),
        (_next_message_meanwhile, 0),
        (_timers_fire_meanwhile, 4),
        (_state_left_as_it_was, 0),
        (_state_not_saved, 0),
        (_failed_calls_forgiven, 0),
    )
]
