"""The table of actors where two things meet: stops, spawns, asks and messages on their way."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from engine.errors import InconsistentPartitionsError, UserCodeError
from engine.operators.actors import (
    Actor,
    ChildFailed,
    Context,
    Resume,
    Signal,
    Started,
    Terminated,
    handles,
)
from engine.operators.actors._mail import REPLY, STOP
from engine.runtime._actor_table import ActorTable
from tests.runtime.shelf import Shelf

MINUTE = timedelta(minutes=1)


def table_of(*classes: type[Actor], here: set[Any] | None = None) -> ActorTable:
    """A table of the actors of some keys, of all if none are said; others are on worker 1."""
    elsewhere = None if here is None else lambda key: None if key in here else 1
    return ActorTable(classes, "f.act", lambda: 0.5, elsewhere)


def handle(table: ActorTable, *records: tuple[Any, Any], now_s: float = 0.0) -> list[Any]:
    """Give records to actors and let them work until nothing is ready; gives what was emitted."""
    table.admit(list(records))
    table.wake(now_s)
    while table.boxes.has_ready:
        table.run(now_s, 10)
    out = table.out.copy()
    table.out.clear()
    return out


class Asker(Actor):
    """Asks the actor "far", which is of another worker, and stops if it is told to."""

    @handles(str)
    def do(self, ctx: Context, what: str) -> None:
        if what == "stop":
            ctx.stop()
        else:
            ctx.ask(Asker.ref("far"), what, on_reply=self.answered, timeout=MINUTE)

    def answered(self, ctx: Context, answer: str) -> None:
        ctx.emit(answer)


def test_an_answer_to_a_stopped_actor_is_not_taken_for_that_to_the_one_after_it():
    """Both have asked once; the numbers of asks tell them apart."""
    table = table_of(Asker, here={"a"})
    handle(table, ("a", "first"), ("a", "stop"))
    handle(table, ("a", "second"))
    asks = [mail for _, mail in table.boxes.outgoing[1]]
    assert [mail[1] for mail in asks] == ["first", "second"]
    me, far = Asker.ref("a"), Asker.ref("far")
    answers = [(me, (REPLY, f"to {mail[1]}", far, mail[3], None)) for mail in asks]
    table.admit_mails(answers, logged=False)
    assert handle(table) == ["to second"]


class Stranger(Actor):
    """A class that no step has."""


class Teller(Actor):
    """Tells whom it gets."""

    @handles(object)
    def tell(self, ctx: Context, to: Any) -> None:
        ctx.tell(to, "hello")


@pytest.mark.parametrize("key", ["here", "far"])
def test_a_message_to_a_class_that_the_step_has_not_is_dead_at_once(key: str):
    """On whichever worker its actor would be, which has no such class either."""
    table = table_of(Teller, here={"a", "here"})
    handle(table, ("a", Stranger.ref(key)))
    assert [(d.ref, d.message) for d in table.boxes.dead] == [(Stranger.ref(key), "hello")]
    assert not table.boxes.outgoing
    assert table.boxes.pending == 0


@pytest.mark.parametrize("to", ["ann", ("ann", None, "Teller"), 5, None], ids=repr)
def test_only_refs_are_told(to: Any):
    """A key alone doesn't say which class."""
    table = table_of(Teller)
    with pytest.raises(Exception, match=r"Cls\.ref\(key\)") as caught:
        handle(table, ("a", to))
    assert isinstance(caught.value.__cause__, UserCodeError)


class Watched(Actor):
    """Stops, or watches itself being watched."""

    @handles(str)
    def do(self, ctx: Context, what: str) -> None:
        if what == "stop":
            ctx.stop()
        else:
            ctx.watch(Watched.ref(what))

    def on_signal(self, ctx: Context, signal: Signal) -> None:
        if isinstance(signal, Terminated):
            ctx.emit((ctx.key, signal.ref.key))


def test_who_watches_an_actor_that_is_about_to_stop_hears_of_it():
    """The wish lies in the mailbox behind the message that ends the actor."""
    table = table_of(Watched)
    handle(table, ("w", "another"))
    table.admit([("b", "stop")])
    table.admit_mails([(Watched.ref("b"), watch_of("w"))], logged=False)
    assert handle(table) == [("w", "b")]


def watch_of(key: str) -> Any:
    """The mail by which an actor wants to hear of another one's end."""
    table = table_of(Watched, here={key})
    handle(table, (key, "far"))
    return table.boxes.outgoing[1][0][1]


def test_a_child_has_the_parent_that_wanted_it_last():
    """And only that one's end is its own."""
    table = table_of(Family)
    handle(table, ("first", "child"), ("second", "child"))
    assert table.state.get("first").life.children == {}
    assert handle(table, ("first", "stop"), ("child", 1)) == [("child", 3)]
    assert handle(table, ("second", "stop")) == []
    assert handle(table, ("child", 1)) == [("child", 1)]


def test_the_end_of_a_parent_is_not_that_of_an_actor_which_has_none():
    """Its child has stopped; the one after it has the same key."""
    table = table_of(Family, here={"parent", "child"})
    handle(table, ("parent", "child"))
    stop = (Family.ref("child"), (STOP, None, Family.ref("parent"), None, None))
    handle(table, ("child", "stop"))
    assert handle(table, ("child", 7)) == [("child", 7)]
    table.admit_mails([stop], logged=False)
    assert handle(table, ("child", 1)) == [("child", 8)]


class Afraid(Actor):
    """Fails when it begins to be."""

    def on_signal(self, ctx: Context, signal: Signal) -> None:
        if isinstance(signal, Started):
            raise ValueError


class Parent(Actor):
    """Has such a child."""

    @handles(str)
    def do(self, ctx: Context, what: str) -> None:
        ctx.spawn(Afraid, what)

    def on_signal(self, ctx: Context, signal: Signal) -> None:
        if isinstance(signal, ChildFailed):
            ctx.emit((ctx.key, signal.ref.key, signal.message))


def test_a_child_that_fails_at_its_start_has_a_parent_already():
    """Which is told, in place of the run being ended."""
    table = table_of(Parent, Afraid)
    assert handle(table, ("p", "c")) == [("p", "c", Started())]


class Failing(Actor):
    """Asks itself, and raises for the answer or for its absence."""

    supervise = Resume()

    @dataclass
    class State:
        asks: int = 0

    @handles(str)
    def do(self, ctx: Context, what: str) -> None:
        self.state.asks += 1
        to = Failing.ref(ctx.key if what == "answer" else "nobody")
        ctx.ask(to, 1, on_reply=self.fail, timeout=MINUTE, on_timeout=self.fail)

    @handles(int)
    def answer(self, ctx: Context, number: int) -> None:
        if ctx.key != "nobody":
            ctx.reply(number)

    def fail(self, ctx: Context, _: Any) -> None:
        ctx.emit("never seen")
        raise ValueError


@pytest.mark.parametrize("what", ["answer", "silence"])
def test_an_ask_is_over_even_if_the_handler_of_its_end_raises(what: str):
    """The answer is a dead letter; no timeout comes after it, and nothing is kept."""
    table = table_of(Failing)
    handle(table, ("a", what))
    handle(table, now_s=100.0)
    assert len(table.boxes.dead) == 1
    assert not table.state.get("a").life.asks
    assert table.next_due_s() == float("inf")
    handle(table, now_s=200.0)
    assert len(table.boxes.dead) == 1


def test_a_saved_message_of_a_class_that_is_gone_is_an_error():
    """It says which class; the run has none of its messages handled."""
    before = table_of(Teller, Asker)
    before.admit([(Asker.ref("a"), "do")])
    shelf = Shelf()
    shelf.take(before)
    after = table_of(Teller)
    shelf.give(after)
    with pytest.raises(InconsistentPartitionsError, match="class 'Asker'.*it has Teller"):
        handle(after)


class Replacing(Actor):
    """Puts whatever it is told in the place of its state."""

    @dataclass
    class State:
        number: int = 0

    @handles(int)
    def replace(self, ctx: Context, number: int) -> None:
        self.state = Replacing.State(number) if number else number


def test_a_state_may_be_replaced_by_another_one_and_by_nothing_else():
    """The next message finds it; what is no state is named when it is to be saved."""
    table = table_of(Replacing)
    handle(table, ("a", 7))
    assert table.state.get("a").state == Replacing.State(7)
    handle(table, ("a", 0))
    with pytest.raises(UserCodeError, match="a Replacing must be a `Replacing.State`; it is 0"):
        table.state.barrier()


class Family(Actor):
    """Parents and children, which know of each other."""

    @dataclass
    class State:
        numbers: int = 0

    @handles(int)
    def count(self, ctx: Context, number: int) -> None:
        self.state.numbers += number
        ctx.emit((ctx.key, self.state.numbers))

    @handles(str)
    def do(self, ctx: Context, what: str) -> None:
        if what == "stop":
            ctx.stop()
        elif what == "fail":
            raise ValueError
        else:
            child = ctx.spawn(Family, what)
            ctx.tell(child, 1)

    def on_signal(self, ctx: Context, signal: Signal) -> None:
        if isinstance(signal, ChildFailed):
            ctx.emit((ctx.key, "child failed", signal.ref.key))


def test_a_child_whose_like_is_about_to_stop_is_another_one():
    """The wish to have it, and what is told to it, lie behind the message that ends the other."""
    sender = table_of(Family, here={"parent"})
    handle(sender, ("parent", "child"))
    table = table_of(Family)
    table.admit([("child", 5), ("child", "stop")])
    table.admit_mails(sender.boxes.outgoing[1], logged=False)
    assert handle(table) == [("child", 5), ("child", 1)]
    assert table.state.get("child").life.parent == Family.ref("parent")
    assert not table.boxes.dead


class Respawning(Actor):
    """Has a child, and another one of its key whenever that one is gone."""

    @dataclass
    class State:
        news: str = ""

    @handles(str)
    def do(self, ctx: Context, what: str) -> None:
        if what == "stop":
            ctx.stop()
        elif what == "fail":
            raise ValueError
        else:
            self.state.news = what
            ctx.watch(ctx.spawn(Respawning, "child"))

    def on_signal(self, ctx: Context, signal: Signal) -> None:
        if type(signal).__name__ == self.state.news:
            ctx.spawn(Respawning, "child")


@pytest.mark.parametrize("news", ["ChildFailed", "Terminated"])
def test_a_child_that_follows_one_that_is_gone_ends_with_its_parent_too(news: str):
    """Its parent has forgotten the former one before it hears that it is gone."""
    table = table_of(Respawning)
    handle(table, ("parent", news))
    handle(table, ("child", "fail"))
    child = table.state.get("child")
    assert child is not None, "it has come again"
    assert child.life.parent == Respawning.ref("parent")
    handle(table, ("parent", "stop"))
    assert table.state.get("child") is None
