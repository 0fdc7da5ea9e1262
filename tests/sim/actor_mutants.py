"""Ways to break steps with actors, each of which a seed must bring to light."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from engine.operators._state import StateChanges
from engine.operators.actors import Context
from engine.operators.actors._life import Life
from engine.operators.actors._mail import Row, packed
from engine.runtime import _actor_state, _mail_rows
from engine.runtime._actor_node import ActorNode
from engine.runtime._actor_state import ActorState
from engine.runtime._actor_table import ActorTable
from engine.runtime._feedback import Feedback
from engine.runtime._mailboxes import Mailboxes
from engine.runtime._messages import Barrier
from engine.runtime._stage import RunningStage
from tests.sim.actors import check_acted_store
from tests.sim.mutant import Mutant

Patch = pytest.MonkeyPatch


# Snapshots with cycles


def _no_feedback_log(patch: Patch) -> None:
    """What was on its way between workers at the barrier isn't saved."""
    admit = ActorTable.admit_mails
    patch.setattr(
        ActorTable, "admit_mails", lambda self, batch, *, logged: admit(self, batch, logged=False)
    )


def _log_not_appended(patch: Patch) -> None:
    empty = StateChanges([], [], [], [])

    def drop(self: ActorNode) -> StateChanges:
        self.table.log.clear()
        return empty

    patch.setattr(ActorNode, "take_log", drop)


def _feedback_barriers_not_awaited(patch: Patch) -> None:
    """The epoch of a worker is prepared as soon as its stage is aligned."""
    pass_barrier = Feedback.pass_barrier

    def at_once(self: Feedback) -> None:
        pass_barrier(self)
        self._missing.clear()

    patch.setattr(Feedback, "pass_barrier", at_once)


def _early_feedback_barriers_not_held(patch: Patch) -> None:
    """What comes behind one is handled in the epoch before."""
    on_barrier, pass_barrier = Feedback.on_barrier, Feedback.pass_barrier

    def let_go(self: Feedback, channel: Any, barrier: Barrier, epoch: int) -> None:
        on_barrier(self, channel, barrier, epoch)
        if barrier.epoch == epoch:
            channel.blocked = False
            self.__dict__.setdefault("early", set()).add(channel.sender)

    def without_early(self: Feedback) -> None:
        pass_barrier(self)
        self._missing -= self.__dict__.pop("early", set())

    patch.setattr(Feedback, "on_barrier", let_go)
    patch.setattr(Feedback, "pass_barrier", without_early)


def _aligned_on_feedback_too(patch: Patch) -> None:
    """Messages between workers count as input: two of them may wait for each other for ever."""
    consume = RunningStage.consume

    def all_channels(self: RunningStage, entry: Any, channel: Any, *args: Any) -> bool:
        aligned = consume(self, entry, channel, *args)
        return aligned and all(c.blocked for _, c in self.channels)

    patch.setattr(RunningStage, "consume", all_channels)


def _log_with_the_sender(patch: Patch) -> None:
    """Rows of mails don't go by the key of the actor that they are for."""

    def misplaced(address: Any, first: str, row: Row) -> Any:
        key, none, part = row_key(address, first, row)
        return "home", none, (*part, key)

    def found(key: Any, first: str) -> tuple[Any, Row]:
        _, none, (*part, of_actor) = key
        return address_of((of_actor, none, tuple(part)), first)

    row_key, address_of = _mail_rows.row_key, _mail_rows.address_of
    patch.setattr(_actor_state, "row_key", misplaced)
    patch.setattr(_actor_state, "address_of", found)


# Rows


def _mailboxes_not_saved(patch: Patch) -> None:
    def actors_only(self: ActorState) -> StateChanges:
        waiting, self.mail, self.spilled = (self.mail, self.spilled), {}, {}
        changes = barrier(self)
        self.mail, self.spilled = waiting
        return changes

    barrier = ActorState.barrier
    patch.setattr(ActorState, "barrier", actors_only)


def _handled_mails_not_deleted(patch: Patch) -> None:
    barrier = ActorState.barrier

    def keep(self: ActorState) -> StateChanges:
        self._handled.clear()
        return barrier(self)

    patch.setattr(ActorState, "barrier", keep)


def _rows_dropped_with_their_first_mail(patch: Patch) -> None:
    """The others of a row of which some were handled aren't saved any more."""

    def forget(self: ActorState, address: Any, box: Any, left: Any, rows: Any) -> None:
        """Write nothing."""

    patch.setattr(ActorState, "_renumber", forget)


def _restored_rows(patch: Patch, change: Callable[[list[Row]], list[Row]]) -> None:
    restore = ActorState.restore

    def changed(self: ActorState, keys: Any) -> Any:
        found = [*restore(self, keys)]
        for spilled in self.spilled.values():
            spilled.rows = change(spilled.rows)
        rows = [row for spilled in self.spilled.values() for row in spilled.rows]
        self.spilled_mails = sum(mails for _, mails in rows)
        return found

    patch.setattr(ActorState, "restore", changed)


def _mails_restored_in_any_order(patch: Patch) -> None:
    _restored_rows(patch, lambda rows: rows[::-1])


def _only_heads_restored(patch: Patch) -> None:
    """What lies behind the first row of a mailbox is forgotten."""
    _restored_rows(patch, lambda rows: rows[:1])


def _spilled_behind_what_comes_later(patch: Patch) -> None:
    """What leaves memory now comes before what has left it at an earlier barrier."""
    spill = ActorState._spill

    def turned(self: ActorState) -> None:
        before = {address: list(spilled.rows) for address, spilled in self.spilled.items()}
        spill(self)
        for address, rows in before.items():
            spilled = self.spilled[address]
            spilled.rows = [*(row for row in spilled.rows if row not in rows), *rows]

    patch.setattr(ActorState, "_spill", turned)


def _spilled_mails_behind_the_mailbox(patch: Patch) -> None:
    """What is in memory has its turn before what has left it."""
    next_turn = Mailboxes.next_turn

    def memory_first(self: Mailboxes) -> Any:
        for address in self._ready:
            if address in self._state.spilled and self._mail.get(address):
                mails, self._mail[address] = list(self._mail[address]), []
                return address, mails
        return next_turn(self)

    patch.setattr(Mailboxes, "next_turn", memory_first)


def _front_saved_behind(patch: Patch) -> None:
    """What was put before spilled mails has a row behind theirs."""

    def behind(self: ActorState, address: Any, spilled: Any, rows: Any) -> None:
        self._write(address, spilled.front, rows)

    patch.setattr(ActorState, "_write_front", behind)


def _put_away_before_it_is_saved(patch: Patch) -> None:
    """An actor that was idle leaves memory at once."""
    release = ActorState.release

    def at_once(self: ActorState, address: Any) -> None:
        release(self, address)
        self._let_go()

    patch.setattr(ActorState, "release", at_once)


def _numbers_begin_again(patch: Patch) -> None:
    """Two rows may have the same number, or one that comes later a smaller one."""
    restore = ActorState.restore

    def forget(self: ActorState, keys: Any) -> Any:
        found = [*restore(self, keys)]
        self._next_number = 0
        return found

    patch.setattr(ActorState, "restore", forget)


def _lives_without(patch: Patch, **what: Any) -> None:
    row = Life.row
    patch.setattr(Life, "row", lambda self: row(replace(self, **what)))


def _timers_not_saved(patch: Patch) -> None:
    _lives_without(patch, timers={})


def _asks_not_saved(patch: Patch) -> None:
    _lives_without(patch, asks={})


def _stash_not_saved(patch: Patch) -> None:
    _lives_without(patch, stash=[])


# Transactions


def _effects_before_the_handler_returns(patch: Patch) -> None:
    """What is told is under way even if the handler raises."""
    tell = Context.tell

    def at_once(self: Context, to: Any, message: Any) -> None:
        tell(self, to, packed(message))
        tables[0].boxes.deliver([self.sent.pop()])

    tables: list[ActorTable] = []
    handle = ActorTable._handle

    def noted(self: ActorTable, *args: Any) -> Any:
        tables[:] = [self]
        return handle(self, *args)

    patch.setattr(Context, "tell", at_once)
    patch.setattr(ActorTable, "_handle", noted)


def _state_not_rolled_back(patch: Patch) -> None:
    roll_back = ActorTable._roll_back

    def keep(self: ActorTable, actor: Any, state: Any, before: Any) -> None:
        del before
        roll_back(self, actor, state, actor.blueprint.images.values_of(state))

    patch.setattr(ActorTable, "_roll_back", keep)


def _emitted_though_it_raised(patch: Patch) -> None:
    class Kept(list[Any]):
        def __delitem__(self, _: Any) -> None:
            """Nothing is taken back."""

    init = ActorTable.__init__

    def with_kept(self: ActorTable, *args: Any) -> None:
        init(self, *args)
        self.out = Kept()
        self._ctx.emit = self.out.append

    def hand_on(self: ActorNode) -> None:
        self.table.out, kept = list[Any](self.table.out), self.table.out
        list.clear(kept)
        before(self)
        self.table.out = kept

    before = ActorNode._hand_on
    patch.setattr(ActorTable, "__init__", with_kept)
    patch.setattr(ActorNode, "_hand_on", hand_on)


def _lives_not_rolled_back(patch: Patch) -> None:
    roll_back = ActorTable._roll_back

    def keep(self: ActorTable, actor: Any, state: Any, before: Any) -> None:
        self._ctx.before = None
        roll_back(self, actor, state, before)

    patch.setattr(ActorTable, "_roll_back", keep)


# Credit


def _peers_wait_for_peers(patch: Patch) -> None:
    """Credit that is owed to another worker waits until that one gives back its own."""

    def can_pay(self: ActorNode) -> bool:
        if self.table.boxes.pending > 10_000:
            return False
        return bool(self._owed_peers or self._owed) and (
            self._peers is None or self._peers.has_room()
        )

    patch.setattr(ActorNode, "_can_pay", can_pay)


def _credit_never_given_back(patch: Patch) -> None:
    """Whatever comes is kept, and nobody upstream may send any more."""
    patch.setattr(ActorNode, "_pay", lambda self: None)


def _fired_timers_fire_again(patch: Patch) -> None:
    """Their messages are in the mailbox, and they stay with the actor too."""
    fire = ActorTable._fire

    def keep(self: ActorTable, address: Any, life: Life, now_s: float) -> None:
        timers = dict(life.timers)
        fire(self, address, life, now_s)
        life.timers.update({n: (at + 3600, m) for n, (at, m) in timers.items() if at <= now_s})

    patch.setattr(ActorTable, "_fire", keep)


# The end


def _ended_when_idle_itself(patch: Patch) -> None:
    patch.setattr(Feedback, "all_quiet", property(lambda _self: True))


ACTOR_MUTANTS = [
    Mutant(function.__name__.strip("_").replace("_", " "), function, check_acted_store, seed)
    for function, seed in (
        (_no_feedback_log, 5),
        (_log_not_appended, 5),
        (_feedback_barriers_not_awaited, 5),
        (_early_feedback_barriers_not_held, 61),
        (_aligned_on_feedback_too, 0),
        (_log_with_the_sender, 1),
        (_mailboxes_not_saved, 5),
        (_handled_mails_not_deleted, 0),
        (_rows_dropped_with_their_first_mail, 4),
        (_mails_restored_in_any_order, 4),
        (_only_heads_restored, 4),
        (_spilled_behind_what_comes_later, 4),
        (_spilled_mails_behind_the_mailbox, 4),
        (_front_saved_behind, 760),
        (_put_away_before_it_is_saved, 2),
        (_numbers_begin_again, 18),
        (_timers_not_saved, 3),
        (_asks_not_saved, 5),
        (_stash_not_saved, 1),
        (_effects_before_the_handler_returns, 1),
        (_state_not_rolled_back, 0),
        (_emitted_though_it_raised, 0),
        (_lives_not_rolled_back, 0),
        (_peers_wait_for_peers, 6),
        (_credit_never_given_back, 0),
        (_fired_timers_fire_again, 3),
        (_ended_when_idle_itself, 56),
    )
]
