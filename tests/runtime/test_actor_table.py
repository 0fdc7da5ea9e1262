"""The table of actors: what comes of handlers, of those that raise too. No flow, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from engine.errors import EngineRuntimeError, InconsistentPartitionsError, UserCodeError
from engine.operators.actors import (
    Actor,
    ChildFailed,
    Context,
    Escalate,
    Exponential,
    Ref,
    Restart,
    Resume,
    Retry,
    Signal,
    Started,
    Stop,
    Terminated,
    handles,
)
from engine.runtime._actor_table import ActorTable
from tests.runtime.shelf import Shelf, mails_of

SECOND = timedelta(seconds=1)


def table_of(*classes: type[Actor]) -> ActorTable:
    return ActorTable(classes, "f.act", lambda: 0.5)


def handle(table: ActorTable, records: Sequence[tuple[Any, Any]], now_s: float = 0.0) -> list[Any]:
    """Give records to actors and let them work until nothing is ready; gives what was emitted."""
    table.admit(list(records))
    return work(table, now_s)


def work(table: ActorTable, now_s: float = 0.0) -> list[Any]:
    table.wake(now_s)
    while table.boxes.has_ready:
        table.run(now_s, 10)
    assert table.boxes.pending == mails_of(table)
    out = table.out.copy()
    table.out.clear()
    return out


class Sum(Actor):
    """Adds numbers, and raises for negative ones after all that it does."""

    supervise = Resume()

    @dataclass
    class State:
        total: int = 0
        seen: list[int] = field(default_factory=list[int])

    @handles(int)
    def add(self, ctx: Context, n: int) -> None:
        self.state.total += n
        self.state.seen.append(n)
        ctx.emit((ctx.key, self.state.total))
        ctx.timer("late", SECOND, "late")
        if ctx.key != "all":
            ctx.tell(Sum.ref("all"), abs(n))
        if n < 0:
            raise ValueError(n)


def test_a_handler_that_raises_has_done_nothing():
    """Not to its state, not to its timers; it has emitted nothing and sent nothing."""
    table = table_of(Sum)
    assert handle(table, [("a", 5), ("a", -7)]) == [("a", 5), ("all", 5)]
    actor = table.state.get("a")
    assert vars(actor.state) == {"total": 5, "seen": [5]}
    assert [(letter.ref, letter.message, letter.reason) for letter in table.boxes.dead] == [
        (Ref("Sum", "a"), -7, "ValueError: -7")
    ]
    assert handle(table, [("b", -7)]) == []
    assert table.state.get("b").life.timers == {}


class Loud(int):
    """A number that is more than a number."""


class Echo(Actor):
    """Emits whatever it is sent, with its sender."""

    @handles(object)
    def any(self, ctx: Context, msg: object) -> None:
        ctx.emit((ctx.key, msg, ctx.sender))
        ctx.reply(("echo", msg))


def test_records_come_to_their_actors():
    """Plain keys are those of the first class, refs name one; keys may be of all kinds."""

    class Other(Actor):
        @handles(object)
        def any(self, ctx: Context, msg: object) -> None:
            ctx.emit(("other", ctx.key, msg))

    table = table_of(Echo, Other)
    records = [("a", 1), (Other.ref("a"), 2), (7, 3), (Other.ref(("x", 1)), 4), (Echo.ref("a"), 5)]
    assert sorted(map(repr, handle(table, records))) == sorted(
        map(
            repr,
            [
                ("a", 1, None),
                ("other", "a", 2),
                (7, 3, None),
                ("other", ("x", 1), 4),
                ("a", 5, None),
            ],
        )
    )


def test_a_class_that_the_step_has_not_is_refused():
    """A record for one of it ends the run; a message to one is a dead letter."""

    class Stranger(Actor):
        @handles(int)
        def tell(self, ctx: Context, n: int) -> None:
            ctx.tell(Ref("Nobody", "x"), n)

    with pytest.raises(EngineRuntimeError, match="it has no class 'Nobody'; it has Stranger"):
        handle(table_of(Stranger), [(Ref("Nobody", "x"), 1)])
    table = table_of(Stranger)
    handle(table, [("a", 1)])
    why = "the step has no class 'Nobody'; it has Stranger"
    assert [letter.reason for letter in table.boxes.dead] == [why]


def test_the_nearest_handler_counts():
    """Of classes that a message is derived from; without any, it is a dead letter."""

    class Kinds(Actor):
        @handles(int)
        def number(self, ctx: Context, msg: int) -> None:
            ctx.emit("int")

        @handles(bool)
        def flag(self, ctx: Context, msg: bool) -> None:
            ctx.emit("bool")

    table = table_of(Kinds)
    assert handle(table, [("a", 1), ("a", True), ("a", Loud(1)), ("a", "text"), ("a", "text")]) == [
        "int",
        "bool",
        "int",
    ]
    assert [letter.reason for letter in table.boxes.dead] == ["Kinds has no handler for it"] * 2


def test_what_is_done_to_a_message_later_is_not_seen():
    """Neither by its receiver nor at another try."""

    class Lists(Actor):
        supervise = Retry(attempts=2, backoff=Exponential(SECOND, jitter=0))

        @handles(str)
        def begin(self, ctx: Context, _: str) -> None:
            values = [1]
            ctx.tell(Lists.ref("b"), values)
            values.append(2)

        @handles(list)
        def take(self, ctx: Context, values: list[int]) -> None:
            values.append(3)
            ctx.emit(values)
            raise ValueError

    table = table_of(Lists)
    assert handle(table, [("a", "go")]) == []
    work(table, 2.0)
    assert [letter.message for letter in table.boxes.dead] == [[1]]


def test_a_message_that_cannot_be_pickled_is_refused():
    """By name, in the handler that sends it."""

    class Sends(Actor):
        @handles(int)
        def send(self, ctx: Context, n: int) -> None:
            ctx.tell(ctx.self, lambda: n)

    with pytest.raises(EngineRuntimeError, match="messages to actors must be picklable") as failed:
        handle(table_of(Sends), [("a", 1)])
    assert isinstance(failed.value.__cause__, UserCodeError)


# Asks


@dataclass(frozen=True)
class Question:
    to: Ref
    text: str


class Asker(Actor):
    @handles(Question)
    def ask(self, ctx: Context, msg: Question) -> None:
        ctx.ask(msg.to, msg.text, on_reply=self.done, on_timeout=self.late, timeout=SECOND)

    def done(self, ctx: Context, answer: Any) -> None:
        ctx.emit(("done", answer))

    def late(self, ctx: Context, asked: Any) -> None:
        ctx.emit(("late", asked))


class Silent(Actor):
    @handles(object)
    def any(self, ctx: Context, msg: object) -> None: ...


def test_an_answer_comes_to_the_method_for_it():
    """And the timeout doesn't come any more."""
    table = table_of(Asker, Echo)
    assert handle(table, [("a", Question(Echo.ref("b"), "x"))]) == [
        ("b", "x", Ref("Asker", "a")),
        ("done", ("echo", "x")),
    ]
    assert work(table, 5.0) == []


def test_without_an_answer_the_timeout_comes_once():
    """With what was asked."""
    table = table_of(Asker, Silent)
    assert handle(table, [("a", Question(Silent.ref("b"), "x"))]) == []
    assert table.next_due_s() == 1.0
    assert work(table, 1.0) == [("late", "x")]
    assert work(table, 9.0) == []


def test_only_a_method_of_the_actor_itself_takes_answers():
    """Anything else could not be saved."""

    class Wrong(Actor):
        @handles(int)
        def ask(self, ctx: Context, n: int) -> None:
            ctx.ask(ctx.self, n, on_reply=lambda *_: None, timeout=SECOND)

    with pytest.raises(EngineRuntimeError, match="must be a method of the actor itself"):
        handle(table_of(Wrong), [("a", 1)])


# Timers, behaviours, stash


def test_timers_come_in_their_order_and_can_be_moved_and_cancelled():
    """By name."""

    class Timed(Actor):
        @handles(str)
        def begin(self, ctx: Context, _: str) -> None:
            ctx.timer("b", 2 * SECOND, 2)
            ctx.timer("a", SECOND, 1)
            ctx.timer("gone", SECOND, 0)
            ctx.timer("moved", SECOND, 3)
            ctx.timer("moved", 3 * SECOND, 4)
            ctx.cancel("gone")

        @handles(int)
        def fire(self, ctx: Context, n: int) -> None:
            ctx.emit((ctx.now.timestamp(), n))

    table = table_of(Timed)
    assert handle(table, [("a", "go")]) == []
    assert work(table, 2.5) == [(2.5, 1), (2.5, 2)]
    assert work(table, 3.0) == [(3.0, 4)]


def test_after_the_end_of_input_timers_that_are_due_later_do_not_come():
    """They are saved."""

    class Timed(Actor):
        @handles(str)
        def begin(self, ctx: Context, _: str) -> None:
            ctx.timer("a", SECOND, 1)

        @handles(int)
        def fire(self, ctx: Context, n: int) -> None:
            ctx.emit(n)

    table = table_of(Timed)
    handle(table, [("a", "go")])
    table.close(0.5)
    assert work(table, 5.0) == []
    assert table.boxes.idle
    changes = table.state.barrier()
    assert changes.keys == ["a"]
    assert changes.due_s == [1.0]


class Door(Actor):
    """Handles nothing while it is closed."""

    @handles(str)
    def say(self, ctx: Context, what: str) -> None:
        if what == "close":
            ctx.become(self.closed)
        else:
            ctx.emit(what)

    def closed(self, ctx: Context, what: str) -> None:
        if what == "open":
            ctx.become(None)
            ctx.unstash()
        else:
            ctx.stash()


def test_what_is_stashed_comes_before_what_came_later():
    """In its order, once it is unstashed."""
    said = [("a", what) for what in ("1", "close", "2", "3", "open", "4")]
    assert handle(table_of(Door), said) == ["1", "2", "3", "4"]


# Families


class Parent(Actor):
    @handles(str)
    def begin(self, ctx: Context, key: str) -> None:
        child = ctx.spawn(Child, key or None)
        ctx.watch(child)
        ctx.tell(child, "work")

    @handles(int)
    def end(self, ctx: Context, _: int) -> None:
        ctx.stop()

    def on_signal(self, ctx: Context, signal: Signal) -> None:
        ctx.emit(signal)


class Child(Actor):
    @handles(str)
    def work(self, ctx: Context, what: str) -> None:
        ctx.emit((ctx.key, what))
        if what == "fail":
            raise ValueError(what)
        if what == "stop":
            ctx.stop()


def test_children_have_keys_that_are_the_same_again():
    """Made of their parent's and a number."""
    table = table_of(Parent, Child)
    out = handle(table, [("p", ""), ("p", "")])
    assert [row for row in out if isinstance(row, tuple)] == [
        (("p", "Parent", 0), "work"),
        (("p", "Parent", 1), "work"),
    ]
    assert out[0] == Started()


def test_who_watches_hears_of_the_end():
    """Once; and a fresh actor comes at the next message."""
    table = table_of(Parent, Child)
    handle(table, [("p", "c")])
    out = handle(table, [(Child.ref("c"), "stop"), (Child.ref("c"), "again")])
    assert out == [("c", "stop"), Terminated(Child.ref("c"))]
    assert [(letter.message, letter.reason) for letter in table.boxes.dead] == [
        ("again", "the actor has stopped")
    ]
    assert handle(table, [(Child.ref("c"), "new")]) == [("c", "new")]


def test_a_parent_takes_its_children_with_it():
    """What is stopped is gone from the table."""
    table = table_of(Parent, Child)
    handle(table, [("p", "c"), ("p", "d")])
    handle(table, [("p", 0)])
    assert [*table.state.all_keys()] == []


def test_a_failure_goes_to_the_parent():
    """Who has none ends the run."""
    table = table_of(Parent, Child)
    handle(table, [("p", "c")])
    failed = ChildFailed(Child.ref("c"), "fail", "ValueError: fail")
    assert handle(table, [(Child.ref("c"), "fail")]) == [failed, Terminated(Child.ref("c"))]
    with pytest.raises(EngineRuntimeError, match=r"Child.ref\('orphan'\) on 'fail': ValueError"):
        handle(table, [(Child.ref("orphan"), "fail")])


# Supervision


def reasons(table: ActorTable) -> list[tuple[Any, int]]:
    return [(letter.message, letter.tries) for letter in table.boxes.dead]


class Picky(Actor):
    """Counts, and raises for negative numbers."""

    @dataclass
    class State:
        count: int = 0

    @handles(int)
    def take(self, ctx: Context, n: int) -> None:
        self.state.count += 1
        ctx.emit((n, self.state.count))
        if n < 0:
            raise ValueError(n)


def picky(directive: Any) -> ActorTable:
    return table_of(type("Picky", (Picky,), {"supervise": directive}))


NUMBERS = [("a", 1), ("a", -2), ("a", 3)]


def test_resume_goes_on_with_the_state():
    """The message is a dead letter."""
    table = picky(Resume())
    assert handle(table, NUMBERS) == [(1, 1), (3, 2)]
    assert reasons(table) == [(-2, 1)]


def test_restart_goes_on_with_a_fresh_state():
    """So often in a time; then it is a failure for the parent."""
    table = picky(Restart(max=1, within=SECOND))
    assert handle(table, NUMBERS) == [(1, 1), (3, 1)]
    assert handle(table, NUMBERS, now_s=5.0) == [(1, 2), (3, 1)]
    with pytest.raises(EngineRuntimeError):
        handle(table, NUMBERS, now_s=5.5)


def test_stop_ends_the_actor():
    """What lay behind the message is a dead letter too."""
    table = picky(Stop())
    assert handle(table, NUMBERS) == [(1, 1)]
    assert reasons(table) == [(-2, 1), (3, 0)]


def test_retry_has_those_behind_it_wait():
    """Until it succeeds, or has failed so often."""
    table = picky(Retry(attempts=3, backoff=Exponential(SECOND, factor=1, jitter=0)))
    assert handle(table, NUMBERS) == [(1, 1)]
    assert table.next_due_s() == 1.0
    assert handle(table, [("a", 4), ("b", 5)]) == [(5, 1)]
    assert work(table, 1.0) == []
    assert work(table, 2.0) == [(3, 2), (4, 3)]
    assert reasons(table) == [(-2, 3)]


def test_tries_are_saved():
    """A table that goes on from what was saved tries the rest of them."""
    retry = Retry(attempts=3, backoff=Exponential(SECOND, factor=1, jitter=0))
    table = picky(retry)
    handle(table, NUMBERS)
    shelf, again = Shelf(), picky(retry)
    shelf.take(table)
    shelf.give(again)
    assert work(again) == []
    assert work(again, 1.0) == [(3, 2)]
    assert reasons(again) == [(-2, 3)]


def test_after_the_tries_another_directive_counts():
    """Here the failure goes to the parent, and there is none."""
    table = picky(Retry(attempts=1, then=Escalate()))
    with pytest.raises(EngineRuntimeError, match=r"Picky.ref\('a'\) on -2: ValueError: -2") as ex:
        handle(table, NUMBERS)
    assert ex.value.step_id == "f.act"
    assert ex.value.key == Ref("Picky", "a")


# Going on


def saved(table: ActorTable) -> dict[Any, Any]:
    """The rows of an epoch, by key."""
    changes = table.state.barrier()
    return dict(zip(changes.keys, changes.stored, strict=True))


def test_an_actor_goes_on_as_it_was():
    """With its state, and with what it has besides."""
    table = table_of(Door)
    handle(table, [("a", what) for what in ("close", "2", "3")])
    again = table_of(Door)
    again.state.put("a", again.form.from_stored("a", saved(table)["a"]))
    assert handle(again, [("a", "open")]) == ["2", "3"]


def test_a_field_that_was_added_has_its_default():
    """In actors of earlier runs."""
    row = ("Picky", 1, "")
    assert table_of(Picky).form.from_stored("a", row).state == Picky.State(0)


@pytest.mark.parametrize(
    ("classes", "said"),
    [((Child,), "the step has no such class"), ((Child, Parent), "in their old order")],
)
def test_classes_that_have_gone_or_moved_are_refused(classes: tuple[Any, ...], said: str):
    """The actors of the first one have plain keys."""
    table = table_of(Parent, Child)
    handle(table, [("p", "c")])
    row = saved(table)["p"]
    with pytest.raises(InconsistentPartitionsError, match=said):
        table_of(*classes).form.from_stored("p", row)


# Turns


def test_an_actor_with_very_much_to_do_lets_others_have_their_turn():
    """It goes on after them, in the order of its messages."""
    table = table_of(Echo)
    table.admit([("a", n) for n in range(1500)])
    table.admit([("b", 0)])
    table.run(0.0, 1500)
    assert [row[:2] for row in table.out] == [
        *(("a", n) for n in range(1000)),
        ("b", 0),
        *(("a", n) for n in range(1000, 1500)),
    ]


def test_records_that_are_taken_at_once_come_behind_those_that_wait():
    """Whatever the way, a key has its order."""
    table = table_of(Echo)
    handle(table, [("a", 0), ("b", 0)])
    table.admit([("a", 1)])
    table.take([("a", 2), ("b", 3)], 0.0)
    assert [row[:2] for row in table.out] == [("b", 3)]
    assert [row[:2] for row in work(table)] == [("b", 3), ("a", 1), ("a", 2)]


@pytest.mark.parametrize("directive", [Resume(), Restart(), Stop(), Retry(attempts=1)])
def test_taking_at_once_comes_to_the_same(directive: Any):
    """What is emitted and buried doesn't depend on the way by which a record comes."""
    waited = picky(directive)
    handle(waited, [("a", 0)])
    wanted = handle(waited, NUMBERS)
    taken = picky(directive)
    handle(taken, [("a", 0)])
    taken.take(NUMBERS[:1], 0.0)
    taken.take(NUMBERS[1:2], 0.0)
    assert taken.boxes.pending == 0
    emitted = taken.out.copy()
    taken.out.clear()
    if not isinstance(directive, Stop):
        taken.take(NUMBERS[2:], 0.0)
        assert [*emitted, *work(taken)] == wanted
        assert reasons(taken) == reasons(waited)
    else:
        assert emitted == wanted
