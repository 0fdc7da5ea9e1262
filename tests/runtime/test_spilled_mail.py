"""What waits for actors leaves memory, and comes back as if it had never left. No flow here."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from engine.errors import DecodeError, EncodeError
from engine.operators.actors import (
    Actor,
    Context,
    Exponential,
    Passivating,
    Ref,
    Retry,
    Signal,
    Stop,
    handles,
)
from engine.runtime import _actor_state, _mail_rows
from engine.runtime._actor_table import ActorTable
from tests.runtime.shelf import Shelf, mails_of

MANY = 3000
SECOND = timedelta(seconds=1)


class List(Actor):
    """Lists the numbers that it gets; puts odd ones away until it gets a text."""

    supervise = Retry(attempts=2, backoff=Exponential(SECOND, factor=1, jitter=0))

    @dataclass
    class State:
        seen: list[int] = field(default_factory=list[int])
        raised: int = 0

    @handles(int)
    def number(self, ctx: Context, n: int) -> None:
        if n < 0 and n not in FAILED:
            FAILED.append(n)
            raise ValueError(n)
        self.state.seen.append(n)

    @handles(str)
    def text(self, ctx: Context, text: str) -> None:
        if text == "put away":
            ctx.become(self.put_away)

    def put_away(self, ctx: Context, msg: object) -> None:
        if msg == "take out":
            ctx.become(None)
            ctx.unstash()
        elif isinstance(msg, int) and msg % 2:
            ctx.stash()
        elif isinstance(msg, int):
            self.state.seen.append(msg)


FAILED: list[int] = []
"""Numbers that were refused once."""


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything leaves memory with each barrier."""
    monkeypatch.setattr(_actor_state, "KEPT_MAX", 0)
    FAILED.clear()


def stored(shelf: Shelf, *classes: type[Actor]) -> ActorTable:
    """A table that goes on from what was saved."""
    table = ActorTable(classes or (List,), "f.act", lambda: 0.5)
    shelf.give(table)
    assert table.boxes.pending == mails_of(table)
    return table


def turns(table: ActorTable, shelf: Shelf, count: int, now_s: float = 0.0) -> None:
    """Let actors have some turns, with a barrier after each."""
    for _ in range(count):
        table.wake(now_s)
        table.run(now_s, 1)
        assert table.boxes.pending == mails_of(table)
        shelf.take(table)


def finish(table: ActorTable, shelf: Shelf, now_s: float = 0.0) -> list[int]:
    """Let an actor handle all that waits; gives what it has seen."""
    while table.boxes.has_ready:
        turns(table, shelf, 1, now_s)
    assert shelf.mail_rows == []
    assert table.boxes.pending == mails_of(table) == 0
    seen: list[int] = table.state.get("a").state.seen
    return seen


def test_a_long_mailbox_leaves_memory_and_comes_back_in_its_order():
    """What came before the barrier, in rows of some hundred, and behind it what came later."""
    shelf = Shelf()
    table = stored(shelf)
    table.admit([("a", n) for n in range(MANY)])
    shelf.take(table)
    assert table.boxes.in_memory == 0
    assert table.boxes.pending == MANY
    assert len(shelf.mail_rows) == -(-MANY // _mail_rows.ROW_MAILS)
    table.admit([("a", n) for n in range(MANY, MANY + 10)])
    assert finish(table, shelf) == [*range(MANY + 10)]


def test_a_start_reads_no_mails_and_a_turn_some_rows():
    """However many there are; their number is known all the same."""
    shelf = Shelf()
    table = stored(shelf)
    table.admit([("a", n) for n in range(MANY)])
    shelf.take(table)
    shelf.read.clear()
    again = stored(shelf)
    assert shelf.read == []
    assert again.boxes.pending == MANY
    again.run(0.0, 1)
    rows = [key for key in shelf.read if key in shelf.mail_rows]
    assert 1 <= len(rows) <= 1 + 1000 // _mail_rows.ROW_MAILS


@pytest.mark.parametrize("done", range(7))
def test_a_run_goes_on_from_the_mail_that_the_last_one_came_to(
    done: int, monkeypatch: pytest.MonkeyPatch
):
    """Wherever in a row that is: what was handled isn't there, what wasn't is."""
    monkeypatch.setattr(_actor_state, "ROW_MAILS", 3)
    monkeypatch.setattr("engine.runtime._mailboxes.TURN_MAX", 1)
    shelf = Shelf()
    table = stored(shelf)
    table.admit([("a", n) for n in range(7)])
    shelf.take(table)
    turns(table, shelf, done)
    assert finish(stored(shelf), shelf) == [*range(7)]


def test_a_message_that_is_tried_again_stays_in_front_of_spilled_ones():
    """Also across a restart in between, and what was handled before it doesn't come again."""
    shelf = Shelf()
    table = stored(shelf)
    table.admit([("a", n) for n in [*range(5), -5, *range(6, MANY)]])
    shelf.take(table)
    turns(table, shelf, 1)
    assert not table.boxes.has_ready or table.boxes.next_turn() is None
    again = stored(shelf)
    assert finish(again, shelf) == [*range(5), -5, *range(6, MANY)]


def test_messages_taken_out_of_the_stash_come_before_spilled_ones(
    monkeypatch: pytest.MonkeyPatch,
):
    """In a run that goes on, and in one that begins with each barrier."""
    monkeypatch.setattr("engine.runtime._mailboxes.TURN_MAX", 4)
    monkeypatch.setattr(_actor_state, "ROW_MAILS", 2)
    wanted = [0, 2, 1, 3, *range(4, 20)]
    for restarts in (False, True):
        shelf = Shelf()
        table = stored(shelf)
        first = ["put away", 0, 1, 2, 3, "take out"]
        table.admit([("a", message) for message in [*first, *range(4, 20)]])
        shelf.take(table)
        while table.boxes.has_ready:
            turns(table, shelf, 1)
            table = stored(shelf) if restarts else table
        assert finish(table, shelf) == wanted


def test_what_comes_from_other_workers_stays_behind_what_they_sent_before():
    """Though it has a row when it comes, and that before it has lost its own."""
    shelf = Shelf()
    table = stored(shelf)
    sender = Ref("List", "b")

    def receive(*numbers: int) -> None:
        mails = [(Ref("List", "a"), (0, n, sender, None, None)) for n in numbers]
        table.admit_mails(mails, logged=True)
        shelf.rows.update(table.log)
        table.log.clear()

    receive(1, 2, 3)
    # As an unstash does.
    address, mails = table.boxes.next_turn() or ("", [])
    table.boxes.pending -= 1
    table.state.drop_row(address, mails[0][4] or (0, 0))
    table.boxes.put_in_front(address, [(0, 0, None, None, None)], mails[1:])
    receive(4, 5)
    shelf.take(table)
    assert finish(stored(shelf), shelf) == [0, 2, 3, 4, 5]


def test_mailboxes_that_wait_are_read_together():
    """A turn reads the first rows of others whose turn comes soon."""
    shelf = Shelf()
    table = stored(shelf)
    table.admit([(f"k{n % 100}", n) for n in range(200)])
    shelf.take(table)
    shelf.read.clear()
    table.run(0.0, 1)
    assert table.boxes.in_memory == 198
    assert [key for key in shelf.read if key in shelf.mail_rows] == shelf.mail_rows


def test_an_actor_that_stops_has_no_spilled_messages_any_more():
    """All of them are dead letters, and their rows are gone."""

    class Ending(Actor):
        supervise = Stop()

        @handles(int)
        def number(self, ctx: Context, n: int) -> None:
            raise ValueError(n)

    shelf = Shelf()
    table = stored(shelf, Ending)
    table.admit([("a", n) for n in range(MANY)])
    shelf.take(table)
    turns(table, shelf, 1)
    assert [letter.message for letter in table.boxes.dead] == [*range(MANY)]
    assert shelf.mail_rows == []
    assert table.boxes.pending == mails_of(table) == 0


def test_memory_is_made_room_in_for_what_waits(monkeypatch: pytest.MonkeyPatch):
    """When states take too much of it, short mailboxes leave it as well."""
    monkeypatch.setattr(_actor_state, "KEPT_MAX", 1000)
    shelf = Shelf()
    table = stored(shelf)
    table.admit([("a", 1), ("b", 2)])
    shelf.take(table)
    assert table.boxes.in_memory == 2
    table.state.rotate()
    assert table.boxes.in_memory == 0
    assert finish(table, shelf) == [1]


def test_the_longest_mailbox_is_known():
    """With what of it is in the store alone."""
    shelf = Shelf()
    table = stored(shelf)
    table.admit([("a", 1), *[("b", n) for n in range(9)]])
    shelf.take(table)
    table.admit([("b", 9)])
    assert table.boxes.longest() == (Ref("List", "b"), 10)


@dataclass(frozen=True)
class Unpicklable:
    """Nothing in it can change, so it isn't pickled when it is sent."""

    what: Any = ()

    def __reduce__(self) -> Any:
        raise TypeError("not me")


def test_a_message_that_cant_be_saved_is_named():
    """With the step and the actor that it waits for."""
    table = stored(Shelf())
    table.admit([("a", 1), ("a", Unpicklable())])
    with pytest.raises(EncodeError, match=r"'f.act': Unpicklable.* waits for 'a'.*not me") as ex:
        table.state.barrier()
    assert ex.value.step_id == "f.act"


def test_a_message_whose_class_is_gone_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch):
    """When its turn comes; it says what to do."""
    shelf = Shelf()
    table = stored(shelf)
    table.admit([("a", Kept(1))])
    shelf.take(table)
    monkeypatch.delitem(globals(), "Kept")
    with pytest.raises(DecodeError, match=r"'f.act': what waits for 'a' can't be read.*Kept"):
        table.run(0.0, 1)


@dataclass(frozen=True)
class Kept:
    n: int


# Putting away


class Sleeper(Actor):
    """Says what it is told."""

    passivate = timedelta(seconds=10)

    @dataclass
    class State:
        count: int = 0

    @handles(object)
    def any(self, ctx: Context, msg: object) -> None:
        self.state.count += 1
        ctx.emit((ctx.key, msg, self.state.count))

    def on_signal(self, ctx: Context, signal: Signal) -> None:
        ctx.emit((ctx.key, type(signal).__name__, self.state.count))
        if ctx.key == "restless" and isinstance(signal, Passivating) and self.state.count < 3:
            ctx.tell(ctx.self, "again")


def say(table: ActorTable, now_s: float, *records: tuple[Any, Any]) -> list[Any]:
    """What actors emit at a time."""
    table.wake(now_s)
    table.admit(list(records))
    while table.boxes.has_ready:
        table.run(now_s, 10)
    out = table.out.copy()
    table.out.clear()
    return out


def test_an_idle_actor_is_told_and_leaves_memory_once_it_is_saved():
    """It comes back with its next message; others stay."""
    shelf = Shelf()
    table = stored(shelf, Sleeper)
    assert say(table, 0.0, ("a", 1)) == [("a", "Started", 0), ("a", 1, 1)]
    assert say(table, 5.0, ("b", 2)) == [("b", "Started", 0), ("b", 2, 1)]
    assert table.next_due_s() == 10.0
    assert say(table, 9.9) == []
    assert say(table, 10.0) == [("a", "Passivating", 1)]
    assert table.state.knows("a")
    shelf.take(table)
    assert not table.state.knows("a")
    assert table.state.knows("b")
    assert say(table, 11.0, ("a", 3)) == [("a", "Restored", 1), ("a", 3, 2)]
    assert table.next_due_s() == 15.0


def test_an_actor_that_is_used_before_the_barrier_stays():
    """It is told all the same that it was put away."""
    shelf = Shelf()
    table = stored(shelf, Sleeper)
    say(table, 0.0, ("a", 1))
    assert say(table, 10.0) == [("a", "Passivating", 1)]
    assert say(table, 10.5, ("a", 2)) == [("a", "Restored", 1), ("a", 2, 2)]
    shelf.take(table)
    assert table.state.knows("a")


def test_without_a_store_an_idle_actor_is_told_and_stays():
    """There is nowhere to find it again."""
    table = ActorTable((Sleeper,), "f.act", lambda: 0.5)
    say(table, 0.0, ("a", 1))
    assert say(table, 10.0) == [("a", "Passivating", 1)]
    assert say(table, 100.0) == []
    assert say(table, 101.0, ("a", 2)) == [("a", "Restored", 1), ("a", 2, 2)]


def test_a_signal_may_wake_the_actor_again():
    """Then it goes on, and is put away later."""
    table = stored(Shelf(), Sleeper)
    say(table, 0.0, ("restless", 1))
    woken = [("restless", "Restored", 1), ("restless", "again", 2)]
    assert say(table, 10.0) == [("restless", "Passivating", 1), *woken]
    assert table.next_due_s() == 20.0


def test_no_actor_is_put_away_once_the_input_has_ended():
    """It would keep the step from ending, or never come."""
    table = stored(Shelf(), Sleeper)
    say(table, 0.0, ("a", 1))
    table.close(1.0)
    assert table.next_due_s() == float("inf")
    assert say(table, 100.0) == []


def test_what_memory_had_no_room_for_isnt_told_of():
    """Nor is it remembered that it was used."""
    shelf = Shelf()
    table = stored(shelf, Sleeper)
    say(table, 0.0, ("a", 1))
    for _ in range(2):
        shelf.take(table)
        table.state.rotate()
    assert say(table, 10.0) == []
    assert say(table, 20.0, ("a", 2)) == [("a", "Restored", 1), ("a", 2, 2)]


@pytest.mark.parametrize("after", [10, timedelta(0), timedelta(seconds=-1)])
def test_a_time_that_is_none_is_refused(after: object):
    """When the class is made."""
    with pytest.raises(TypeError, match=r"Bad.passivate.*positive timedelta"):
        type("Bad", (Actor,), {"passivate": after})


def test_an_actor_without_signals_is_put_away_as_well():
    """Its timers come in time all the same."""

    class Quiet(Actor):
        passivate = timedelta(seconds=10)

        @handles(str)
        def text(self, ctx: Context, text: str) -> None:
            ctx.emit(text)
            if text == "wait":
                ctx.timer("later", timedelta(seconds=30), "later")

    shelf = Shelf()
    table = stored(shelf, Quiet)
    assert say(table, 0.0, ("a", "wait"), ("b", "x")) == ["wait", "x"]
    shelf.take(table)
    assert say(table, 10.0) == []
    shelf.take(table)
    assert not table.state.knows("a")
    assert say(table, 31.0) == ["later"]
