"""What becomes of actors that fail: limits over time, what is tried again, who hears of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from engine.errors import EngineRuntimeError
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
    Stop,
    handles,
)
from engine.operators.tasks import Retry as TaskRetry
from engine.runtime._actor_table import ActorTable

SECOND = timedelta(seconds=1)


class Failing(Actor):
    """Raises for numbers, and emits texts."""

    @handles(int)
    def fail(self, _: Context, n: int) -> None:
        raise KeyError(n) if n < 0 else ValueError(n)

    @handles(str)
    def say(self, ctx: Context, text: str) -> None:
        ctx.emit(text)


def table_of(directive: Any, *classes: type[Actor]) -> ActorTable:
    """A table whose first class fails, and does as a directive says."""
    failing = type("Failing", (Failing,), {"supervise": directive})
    return ActorTable((failing, *classes), "f.act", lambda: 0.5)


def handle(table: ActorTable, messages: list[Any], now_s: float = 0.0, key: Any = "a") -> list[Any]:
    """Give messages to an actor at a time; gives what was emitted."""
    table.admit([(key, message) for message in messages])
    table.wake(now_s)
    while table.boxes.has_ready:
        table.run(now_s, 10)
    out = table.out.copy()
    table.out.clear()
    return out


def reasons(table: ActorTable) -> list[str]:
    return [letter.reason for letter in table.boxes.dead]


@pytest.mark.parametrize("kind", [Resume, Restart])
def test_failures_in_a_time_have_a_limit(kind: type[Resume | Restart]):
    """After so many the next one is its parent's; older ones don't count any more."""
    table = table_of(kind(max=2, within=SECOND))
    handle(table, [1, 2], 0.0)
    handle(table, [3, 4], 1.5)
    assert reasons(table) == [f"ValueError: {n}" for n in (1, 2, 3, 4)]
    with pytest.raises(EngineRuntimeError) as failed:
        handle(table, [5], 2.0)
    assert "Failing.ref('a') on 5: ValueError: 5" in str(failed.value)
    assert "it has failed 2 times before within 0:00:01, which is the limit" in str(failed.value)


def test_each_actor_has_a_limit_of_its_own():
    """What one does says nothing of another one."""
    table = table_of(Resume(max=1, within=SECOND))
    for key in "abc":
        handle(table, [1], key=key)
    assert len(reasons(table)) == 3


def test_failures_are_saved():
    """A restart of the job isn't a way round the limit."""
    table = table_of(Resume(max=1, within=SECOND))
    handle(table, [1])
    (row,) = table.state.barrier().stored
    again = table_of(Resume(max=1, within=SECOND))
    again.state.put("a", again.form.from_stored("a", row))
    with pytest.raises(EngineRuntimeError, match="failed once before"):
        handle(again, [1], 0.5)


def test_without_a_limit_an_actor_may_fail_for_ever():
    """The default of `Resume`: each message is a dead letter."""
    table = table_of(Resume())
    assert handle(table, [*range(1000), "x"]) == ["x"]
    assert len(reasons(table)) == 1000


def test_a_limit_counts_messages_that_were_tried_in_vain():
    """Not their tries."""
    retry = Retry(
        attempts=2,
        backoff=Exponential(timedelta(0), jitter=0),
        then=Resume(max=1, within=timedelta(hours=1)),
    )
    table = table_of(retry)
    handle(table, [1])
    assert handle(table, ["x"], 1.0) == ["x"]
    assert reasons(table) == ["ValueError: 1"]
    handle(table, [2], 2.0)
    with pytest.raises(EngineRuntimeError, match="which is the limit"):
        handle(table, [], 3.0)


def test_only_some_exceptions_are_tried_again():
    """After others the directive for the last try counts at once."""
    table = table_of(Retry(attempts=9, on=(ValueError,)))
    assert handle(table, [-1, "x"]) == ["x"]
    assert [letter.tries for letter in table.boxes.dead] == [1]
    assert handle(table, [1, "x"]) == []


class Deaf(Actor):
    """Has a child and no signals."""

    @handles(str)
    def spawn(self, ctx: Context, key: str) -> None:
        ctx.spawn(_Named("Failing"), key)

    @handles(float)
    def say(self, ctx: Context, n: float) -> None:
        ctx.emit(n)


@dataclass
class _Named:
    name: str

    def ref(self, key: Any) -> Ref:
        return Ref(self.name, key)


def test_a_childs_failure_is_its_parents_own_unless_it_says_otherwise():
    """So the parent's directive counts, and with the default of both the run ends."""
    deaf = type("Deaf", (Deaf,), {"supervise": Resume()})
    table = table_of(Escalate(), deaf)
    handle(table, ["c"], key=Ref("Deaf", "p"))
    handle(table, [1], key="c")
    assert reasons(table) == [
        "ValueError: 1",
        "EngineRuntimeError: its child Failing.ref('c') failed on 1: ValueError: 1",
    ]
    assert handle(table, [1.0], key=Ref("Deaf", "p")) == [1.0]
    table = table_of(Escalate(), Deaf)
    handle(table, ["c"], key=Ref("Deaf", "p"))
    with pytest.raises(EngineRuntimeError, match=r"Deaf.ref\('p'\).* its child Failing.ref\('c'\)"):
        handle(table, [1], key="c")


def test_a_limit_that_is_reached_goes_to_the_parent():
    """Which hears of it once, with the reason; the child is stopped."""

    class Hearing(Deaf):
        def on_signal(self, ctx: Context, signal: Signal) -> None:
            if isinstance(signal, ChildFailed):
                ctx.emit(signal.error)

    table = table_of(Restart(max=1), Hearing)
    handle(table, ["c"], key=Ref("Hearing", "p"))
    said = handle(table, [1, 2, 3], key="c")
    assert said == ["ValueError: 2 (it has failed once before within 0:01:00, which is the limit)"]
    assert reasons(table)[2] == "the actor has stopped"


def test_tries_of_actors_are_those_of_tasks():
    """There is one class of it; an actor's knows besides what to do after the last one."""
    assert isinstance(Retry(), TaskRetry)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: Resume(max=0), ValueError, "`max` must be at least 1"),
        (lambda: Restart(within=timedelta(0)), ValueError, "`within` must be more than 0"),
        (lambda: Restart(within=5), TypeError, "`within` must be a `timedelta`"),  # type: ignore[arg-type]
        (lambda: Retry(attempts=0), ValueError, "`attempts` must be at least 1"),
        (lambda: Retry(on=(int,)), TypeError, "must be made of exception types"),  # type: ignore[arg-type]
        (lambda: Retry(then=Stop), TypeError, "`then` must be `Resume`"),  # type: ignore[arg-type]
    ],
)
def test_directives_that_make_no_sense_are_refused(make: Any, error: type[Exception], said: str):
    """When they are made."""
    with pytest.raises(error, match=said):
        make()
