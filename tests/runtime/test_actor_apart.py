"""Tasks of actors and handlers that run apart: by the table alone, and by whole flows."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow
from engine.errors import FlowError, UserCodeError, WorkerProcessError
from engine.operators.actors import (
    Actor,
    Context,
    DeadMessage,
    Exponential,
    Restart,
    Resume,
    Retry,
    Signal,
    Started,
    actor,
    dedicated,
    handles,
)
from engine.operators.actors._apart import HandledApart
from engine.operators.actors._requests import TaskRequest
from engine.operators.tasks import Resources, TaskError
from engine.operators.tasks import Retry as TaskRetry
from engine.runtime._actor_calls import End, Order, Parcel
from engine.runtime._actor_table import ActorTable
from engine.testing import TestingSink, TestingSource, run_main
from tests.runtime.shelf import Shelf

SECOND = timedelta(seconds=1)


def table_of(*classes: type[Actor]) -> ActorTable:
    return ActorTable(classes, "f.act", lambda: 0.5)


def handle(table: ActorTable, *records: tuple[Any, Any]) -> list[Any]:
    """Give records to actors and let them work until nothing is ready; gives what was emitted."""
    table.admit(list(records))
    return work(table)


def work(table: ActorTable, now_s: float = 0.0) -> list[Any]:
    table.wake(now_s)
    while table.boxes.has_ready:
        table.run(now_s, 10)
    assert table.boxes.pending == sum(map(len, table.state.mail.values()))
    out = table.out.copy()
    table.out.clear()
    return out


def do(order: Order) -> Any:
    """What an executor would give."""
    if isinstance(order.work, Parcel):
        return HandledApart(order.work.cls)(order.work.pack())
    return math.sqrt(*order.work.args())


def end(table: ActorTable, result: Any = None, error: Exception | None = None) -> None:
    """Let the first call end, by itself or in some other way."""
    order = table.orders.pop(0)
    if result is None and error is None:
        result = do(order)
    table.end(End(order, result, error, 1), 0.0)


# Tasks


class Rooter(Actor):
    """Takes roots, and raises for negative numbers after all that it does."""

    supervise = Resume()

    @dataclass
    class State:
        roots: list[float] = field(default_factory=list[float])

    @handles(float)
    def take(self, ctx: Context, number: float) -> None:
        on_error = None if number == 2.0 else self.failed
        ctx.task(math.sqrt, abs(number), on_result=self.rooted, on_error=on_error)
        if number < 0:
            raise ValueError(number)

    @handles(str)
    def leave(self, ctx: Context, _: str) -> None:
        ctx.stop()

    def rooted(self, ctx: Context, root: float) -> None:
        self.state.roots.append(root)
        ctx.emit((ctx.key, root))

    def failed(self, ctx: Context, error: TaskError[Any]) -> None:
        ctx.emit((ctx.key, error.record, repr(error.exception), error.attempts))


def test_the_result_of_a_task_comes_as_a_message():
    """Nothing waits for it: other messages are handled before."""
    table = table_of(Rooter)
    assert handle(table, ("a", 9.0), ("a", 4.0)) == []
    assert not table.boxes.idle
    end(table)
    end(table)
    assert work(table) == [("a", 3.0), ("a", 2.0)]
    assert table.boxes.idle


def test_a_handler_that_raises_has_asked_for_no_task():
    """It is as if it hadn't run."""
    table = table_of(Rooter)
    handle(table, ("a", -9.0))
    assert table.orders == []
    assert table.boxes.idle
    actor = table.state.get("a")
    assert actor.life.tasks == {}


def test_a_failed_task_tells_what_it_was_called_with():
    """And what it has raised, by a message to the other method."""
    table = table_of(Rooter)
    handle(table, ("a", 9.0))
    end(table, error=OSError("no"))
    assert work(table) == [("a", (9.0,), "OSError('no')", 1)]


def test_without_a_method_for_it_a_failed_task_fails_the_actor():
    """Then `supervise` counts, and the letter says what the task was."""
    table = table_of(Rooter)
    handle(table, ("a", 2.0))
    end(table, error=OSError("no"))
    work(table)
    (letter,) = table.boxes.dead
    assert (letter.message.record, letter.reason) == ((2.0,), "OSError: no")
    assert table.state.get("a").life.tasks == {}


def test_a_result_that_cant_be_saved_is_a_failure():
    """It would be lost with the next crash."""
    table = table_of(Rooter)
    handle(table, ("a", 9.0))
    end(table, result=lambda: None)
    ((_, _, said, _),) = work(table)
    assert "must be picklable" in said


class Untold(Exception):  # noqa: N818 - as users name theirs
    """Can be pickled, but not back."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)


@pytest.mark.parametrize("error", [Untold(1, "well"), SystemExit("well")])
def test_an_exception_that_cant_be_saved_comes_in_words(error: Exception):
    """And so does one that would end the worker."""
    table = table_of(Rooter)
    handle(table, ("a", 9.0))
    end(table, error=error)
    ((_, _, said, _),) = work(table)
    assert said == f"UserCodeError('it raised {type(error).__name__}: well')"


def test_a_stopped_actor_isnt_told_of_its_tasks():
    """Nor is the one that comes after it, which has tasks of the same numbers."""
    table = table_of(Rooter)
    handle(table, ("a", 9.0), ("a", "leave"))
    handle(table, ("a", 16.0))
    end(table)
    assert work(table) == []
    end(table)
    assert work(table) == [("a", 4.0)]


class Putting(Actor):
    """Puts the first answer and the first root away."""

    @dataclass
    class State:
        full: int = 0

    @handles(str)
    def begin(self, ctx: Context, what: str) -> None:
        if what == "ask":
            ctx.ask(Putting.ref("b"), 1, on_reply=self.heard, timeout=SECOND)
        elif what == "task":
            ctx.task(math.sqrt, 49.0, on_result=self.heard)
        else:
            ctx.unstash()

    @handles(int)
    def answer(self, ctx: Context, number: int) -> None:
        ctx.reply(number)

    def heard(self, ctx: Context, what: float) -> None:
        if self.state.full == 2:
            ctx.emit(what)
        else:
            self.state.full += 1
            ctx.stash()


def test_answers_and_results_can_be_put_away():
    """They come again when they are wanted, and no timeout comes in between."""
    table = table_of(Putting)
    handle(table, ("a", "ask"), ("a", "task"))
    end(table)
    assert work(table) == []
    assert work(table, now_s=60.0) == []
    assert handle(table, ("a", "come")) == [1, 7.0]
    life = table.state.get("a").life
    assert (life.asks, life.tasks) == ({}, {})


class Fresh(Rooter):
    supervise = Restart()

    @handles(int)
    def fail(self, ctx: Context, _: int) -> None:
        raise ValueError


def test_a_restarted_actor_isnt_told_of_its_tasks():
    """It doesn't remember them."""
    table = table_of(Fresh)
    handle(table, ("a", 9.0), ("a", 0))
    assert table.boxes.idle
    end(table)
    assert work(table) == []


def test_a_task_under_way_is_a_row_until_it_has_ended():
    """So a later run makes the call again."""
    table = table_of(Rooter)
    handle(table, ("a", 9.0))
    shelf, later = Shelf(), table_of(Rooter)
    shelf.take(table)
    (row,) = shelf.mail_rows
    shelf.give(later)
    assert not later.boxes.idle
    end(later)
    assert work(later) == [("a", 3.0)]
    assert later.state.barrier().gone == [row]


def test_a_task_that_has_failed_is_saved_anew():
    """In another row: the old one goes with the same epoch."""
    table = table_of(Rooter)
    handle(table, ("a", 9.0))
    before = table.state.barrier().keys[-1]
    (order,) = table.orders
    assert isinstance(order.work, TaskRequest)
    table.note_try(order, replace(order.work, tries=1))
    changes = table.state.barrier()
    assert changes.gone == [before]
    assert len(changes.keys) == 1
    end(table)
    assert work(table) == []
    ((_, again, *_),) = table.state.requests.values()
    table.orders.append(order._replace(work=again))
    end(table)
    assert work(table) == [("a", 3.0)]


async def pause() -> None:
    """Comes back at once."""


def numbers() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c, a: c.task(3, on_result=a.rooted), "takes a function to call; got 3"),
        (lambda c, a: c.task(lambda: 3, on_result=a.rooted), "can be imported by its name"),
        (lambda c, a: c.task(len, lambda: 3, on_result=a.rooted), "must be picklable"),
        (lambda c, a: c.task(len, "a", on_result=len), "must be a method of the actor"),
        (lambda c, a: c.task(len, "a", on_result=a.rooted, on_error=len), "a method of the actor"),
        (lambda c, a: c.task(len, "a", on_result=a.rooted, executor="gpu"), "one of 'inline'"),
        (lambda c, a: c.task(len, "a", on_result=a.rooted, retry=3), "`retry` of `ctx.task`"),
        (lambda c, a: c.task(len, "a", on_result=a.rooted, timeout=3), "must be a `timedelta`"),
        (lambda c, a: c.task(len, "a", on_result=a.rooted, timeout=0 * SECOND), "above zero"),
        (lambda c, a: c.task(len, "a", on_result=a.rooted, rate=3), "`retry`, not 'rate'"),
        (lambda c, a: c.task(pause, on_result=a.rooted, executor="thread"), "executor='async'"),
        (lambda c, a: c.task(numbers, on_result=a.rooted), "is a generator function"),
    ],
)
def test_what_cant_be_a_task_is_said_so(call: Callable[[Context, Any], None], said: str):
    """By an error of the handler, which so has asked for nothing."""

    class Asker(Rooter):
        @handles(int)
        def ask(self, ctx: Context, _: int) -> None:
            with pytest.raises(UserCodeError, match=said):
                call(ctx, self)
            ctx.emit("raised")

    table = table_of(Asker)
    assert handle(table, ("a", 1)) == ["raised"]
    assert table.orders == []


# Dedicated handlers


@dedicated()
class Adder(Actor):
    """Adds numbers, in other processes."""

    supervise = Retry(attempts=2, backoff=Exponential(SECOND, jitter=0))

    @dataclass
    class State:
        total: int = 0
        ticks: int = 0

    @handles(int)
    def add(self, ctx: Context, number: int) -> None:
        self.state.total += number
        ctx.emit((ctx.key, self.state.total))
        if number == 0:
            ctx.timer("tick", SECOND, "tick")
        if number == 7:
            ctx.tell(Rooter.ref(ctx.key), 49.0)
            ctx.task(math.sqrt, 49.0, on_result=self.rooted)

    @handles(str)
    def tick(self, ctx: Context, what: str) -> None:
        self.state.ticks += 1
        ctx.emit((ctx.key, what))

    @handles(bytes)
    def put_away(self, ctx: Context, message: bytes) -> None:
        if message == b"come":
            ctx.unstash()
        elif self.state.total < 100:
            self.state.total = 100
            ctx.stash()
        else:
            ctx.emit((ctx.key, message))

    def rooted(self, ctx: Context, root: float) -> None:
        ctx.emit((ctx.key, root))


def test_a_dedicated_handler_counts_when_it_has_come_back():
    """Its actor's other messages wait for that; those of other actors don't."""
    table = table_of(Adder, Rooter)
    assert handle(table, ("a", 1), ("a", 2), ("b", 5)) == []
    assert [order.address for order in table.orders] == ["a", "b"]
    assert table.state.get("a").state.total == 0
    end(table)
    end(table)
    assert work(table) == [("a", 1), ("b", 5)]
    end(table)
    assert work(table) == [("a", 3)]
    assert table.boxes.idle


def test_all_that_a_dedicated_handler_did_comes_back():
    """What it has sent, and what it has asked for."""
    table = table_of(Adder, Rooter)
    handle(table, ("a", 7))
    end(table)
    assert work(table) == [("a", 7)]
    roots = list[Any]()
    while table.orders:
        end(table)
        roots += work(table)
    assert roots == [("a", 7.0), ("a", 7.0)]
    assert table.boxes.idle


def test_a_dedicated_handler_stashes():
    """And what was put away comes again, to the other process too."""
    table = table_of(Adder)
    handle(table, ("a", b"later"), ("a", b"come"))
    for _ in range(3):
        end(table)
        said = work(table)
    assert said == [("a", b"later")]


def test_a_timer_waits_for_a_dedicated_handler():
    """Which has the timers as they were, and brings them back so."""
    table = table_of(Adder)
    handle(table, ("a", 0))
    end(table)
    assert work(table) == [("a", 0)]
    handle(table, ("a", 1))
    assert work(table, now_s=2.0) == []
    assert table.next_due_s() > 2.0
    end(table)
    assert work(table, now_s=3.0) == [("a", 1)]
    end(table)
    assert work(table, now_s=4.0) == [("a", "tick")]
    assert work(table, now_s=9.0) == []


def test_a_dedicated_handler_that_raises_is_tried_again():
    """As the class says, before the messages behind it; then there is a dead letter."""
    table = table_of(Adder)
    handle(table, ("a", 1), ("a", 2))
    end(table, error=ValueError("no"))
    assert work(table) == []
    assert table.orders == []
    assert work(table, now_s=1.0) == []
    end(table, error=ValueError("no"))
    work(table, now_s=1.0)
    (letter,) = table.boxes.dead
    assert (letter.message, letter.tries) == (1, 2)
    end(table)
    assert work(table) == [("a", 2)]


def test_a_message_whose_process_died_too_often_isnt_tried_again():
    """Those who ran it have counted; state and other messages are as they were."""
    table = table_of(Adder)
    handle(table, ("a", 1), ("a", 2))
    end(table, error=WorkerProcessError("its process has died"))
    work(table)
    assert [letter.message for letter in table.boxes.dead] == [1]
    end(table)
    assert work(table) == [("a", 2)]


@dedicated()
class Hearing(Actor):
    def on_signal(self, ctx: Context, signal: Signal) -> None:
        ctx.emit(signal)


def test_signals_are_handled_in_other_processes_too():
    """And what nobody handles there is a dead letter here."""
    table = table_of(Hearing)
    handle(table, ("a", 1))
    end(table)
    assert work(table) == [Started()]
    end(table)
    work(table)
    assert [letter.reason for letter in table.boxes.dead] == ["Hearing has no handler for it"]
    assert table.boxes.idle


def test_an_actor_that_was_read_again_meanwhile_isnt_told_so():
    """Or one that leaves memory each time would hear of nothing else."""
    table = table_of(Hearing)
    handle(table, ("a", 1))
    table.form.restored.add("a")
    end(table)
    assert work(table) == [Started()]
    end(table)
    assert work(table) == []
    assert table.boxes.idle


def test_classes_derived_from_a_dedicated_one_are_dedicated():
    """As they have its handlers."""

    class More(Adder):
        pass

    table = table_of(More)
    assert handle(table, ("a", 1)) == []
    assert len(table.orders) == 1


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"processes": 0}, ValueError, "at least 1"),
        ({"processes": 1.5}, TypeError, "must be an int"),
        ({"resources": {"gpu": 1}}, TypeError, "like `Resources"),
        ({"timeout": 3}, TypeError, "must be a `timedelta`"),
        ({"timeout": 0 * SECOND}, ValueError, "above zero"),
    ],
)
def test_what_dedicated_doesnt_take(given: dict[str, Any], error: type[Exception], said: str):
    """Is said when the class is made."""
    with pytest.raises(error, match=said):
        dedicated(**given)


def test_dedicated_is_for_actors():
    """Nothing else has handlers."""
    with pytest.raises(TypeError, match="derived from `Actor`"):
        dedicated()(int)


def _commands(*records: Any) -> tuple[Dataflow, Any]:
    flow = Dataflow("flow")
    return flow, op.input("in", flow, TestingSource(list(records)))


def test_a_dedicated_class_must_be_importable(monkeypatch: pytest.MonkeyPatch):
    """Which is said as the flow is built."""
    monkeypatch.setitem(sys.modules, "cloudpickle", None)

    class Hidden(Adder):
        pass

    _, commands = _commands()
    with pytest.raises(TypeError, match="Hidden.* can't be sent to other processes"):
        actor("act", commands, Hidden)


@dedicated(resources=Resources(gpu=1))
class Costly(Adder):
    pass


def test_a_class_that_no_worker_can_run_is_refused():
    """Before anything is opened: its messages would wait for ever."""
    flow, commands = _commands(("a", 1))
    acted = actor("act", commands, Costly)
    op.output("out", acted.out, TestingSink([]))
    with pytest.raises(FlowError, match=r"class 'Costly' of step 'flow.act' take gpu=1 .*--res"):
        run_main(flow)


# Whole flows


def root_of(number: float) -> float:
    """For processes."""
    return math.sqrt(number)


async def root_later(number: float) -> float:
    """For the event loop."""
    return math.sqrt(number)


def first_fails(number: float, path: str) -> float:
    """Raises when it is called first."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return math.sqrt(number)
    raise OSError("the first time")


class Asking(Rooter):
    """Asks for roots in all ways."""

    @handles(tuple)
    def ask(self, ctx: Context, what: tuple[Any, ...]) -> None:
        fn, args, options = what
        ctx.task(fn, *args, on_result=self.rooted, on_error=self.failed, **options)


def _run(cls: type[Actor], *records: Any) -> tuple[list[Any], list[DeadMessage]]:
    flow, commands = _commands(*records)
    acted = actor("act", commands, cls)
    out, dead = list[Any](), list[DeadMessage]()
    op.output("out", acted.out, TestingSink(out))
    op.output("dead", acted.dead_letters, TestingSink(dead))
    run_main(flow)
    return out, dead


@pytest.mark.parametrize("executor", ["inline", "thread", "process", "async", None])
def test_each_executor_runs_tasks(executor: str | None):
    """The end of input waits for them."""
    fn = root_later if executor == "async" else root_of
    asked = fn, (9.0,), {"executor": executor}
    assert _run(Asking, ("a", asked)) == ([("a", 3.0)], [])


def test_a_task_is_tried_again(tmp_path: Any):
    """As its `retry` says."""
    retry = TaskRetry(attempts=2, backoff=Exponential(timedelta(0)))
    asked = first_fails, (9.0, str(tmp_path / "tried")), {"retry": retry}
    assert _run(Asking, ("a", asked)) == ([("a", 3.0)], [])


def test_a_task_that_takes_too_long_has_failed():
    """Others with a timeout of their own go on."""
    slow = time.sleep, (60.0,), {"timeout": timedelta(seconds=0.05), "executor": "process"}
    quick = root_of, (9.0,), {"executor": "process"}
    out, _ = _run(Asking, ("a", slow), ("b", quick))
    assert sorted(row[0] for row in out) == ["a", "b"]
    ((_, args, said, tries),) = [row for row in out if row[0] == "a"]
    assert (args, tries) == ((60.0,), 1)
    assert said.startswith("TimeoutError")


@dedicated(timeout=timedelta(seconds=20))
class Elsewhere(Actor):
    """Says where it runs, and dies for negative numbers."""

    supervise = Retry(attempts=2, backoff=Exponential(timedelta(0)), deaths=2)

    @dataclass
    class State:
        total: int = 0

    @handles(int)
    def add(self, ctx: Context, number: int) -> None:
        if number < 0:
            os._exit(3)
        self.state.total += number
        ctx.emit((ctx.key, self.state.total, os.getpid()))


def test_dedicated_handlers_run_in_another_process_which_is_replaced():
    """Its death is a dead letter here; the state isn't lost with it."""
    out, dead = _run(Elsewhere, ("a", 1), ("b", 5), ("a", -1), ("a", 2))
    assert [row[:2] for row in out if row[0] == "a"] == [("a", 1), ("a", 3)]
    pids = {row[2] for row in out}
    assert os.getpid() not in pids
    assert len(pids) > 1
    assert [(letter.message, letter.tries) for letter in dead] == [(-1, 1)]
    assert "WorkerProcessError" in dead[0].reason


class Unhandled(Elsewhere):
    supervise = Resume()

    @handles(str)
    def fail(self, ctx: Context, text: str) -> None:
        raise ValueError(text)


def test_what_a_dedicated_handler_raises_is_in_the_letter():
    """As if it had been raised here."""
    _, dead = _run(Unhandled, ("a", "bad"))
    assert [letter.reason for letter in dead] == ["ValueError: bad"]
