"""A step with actors in a flow: what comes out, on one worker and on several, and in later runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow
from engine.errors import EngineRuntimeError
from engine.operators.actors import Actor, Context, DeadMessage, Ref, Resume, handles
from engine.recovery import RecoveryConfig
from engine.runtime import Drain, RunOptions, run_flow
from engine.runtime._ports import SystemWaiter
from engine.testing import TestingSink, TestingSource, cluster_main, run_main


@dataclass(frozen=True)
class Hop:
    left: int


class Runner(Actor):
    """Sends a message round a ring of ten until it has no hops left."""

    @dataclass
    class State:
        laps: int = 0

    @handles(Hop)
    def hop(self, ctx: Context, msg: Hop) -> None:
        self.state.laps += 1
        if msg.left:
            ctx.tell(Runner.ref((ctx.key + 1) % 10), Hop(msg.left - 1))
        else:
            ctx.emit((ctx.key, self.state.laps))

    @handles(str)
    def say(self, ctx: Context, msg: str) -> None:
        if msg == "later":
            ctx.timer("later", timedelta(milliseconds=1), "now")
        elif msg == "fail":
            raise ValueError(msg)
        ctx.emit((ctx.key, msg))


def flow_of(
    records: list[Any], out: list[Any], dead: list[Any] | None = None, cls: type[Actor] = Runner
) -> Dataflow:
    """A step with runners; dead letters are read if there is a list for them."""
    flow = Dataflow("f")
    acted = op.actor("act", op.input("in", flow, TestingSource(records, 2)), cls)
    op.output("out", acted.out, TestingSink(out))
    if dead is not None:
        op.output("dead", acted.dead_letters, TestingSink(dead))
    return flow


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_step_ends_when_no_message_is_left(workers: int):
    """However long they have gone from worker to worker."""
    out: list[Any] = []
    flow = flow_of([(0, Hop(1000)), (5, Hop(504)), (3, "x")], out)
    # No epoch closes in between, which would wake everybody.
    hour = timedelta(hours=1)
    cluster_main(flow, [], 0, worker_count_per_proc=workers, epoch_interval=hour)
    # How often each was passed before depends on who was faster.
    assert sorted(key for key, _ in out) == [0, 3, 9]


def test_messages_that_nobody_handles_come_out_of_the_other_stream():
    """With whom they were for, and why."""
    out: list[Any] = []
    dead: list[Any] = []
    run_main(flow_of([(1, 2.5), (1, "x")], out, dead))
    assert out == [(1, "x")]
    assert dead == [DeadMessage(Ref("Runner", 1), 2.5, None, "Runner has no handler for it")]


def test_dead_letters_that_nobody_reads_end_the_run():
    """With the message and the reason."""
    with pytest.raises(
        EngineRuntimeError,
        match=r"step 'f.act': Runner.ref\(1\) has not handled 2.5: .*nobody reads .*`dead_letters`",
    ):
        run_main(flow_of([(1, 2.5)], []))


def test_a_handler_that_raises_ends_the_run_with_its_own_error():
    """Which names the step, the actor and the message."""
    with pytest.raises(EngineRuntimeError) as failed:
        run_main(flow_of([(1, "fail")], []))
    error = failed.value
    assert (error.step_id, error.key, error.record) == ("f.act", Ref("Runner", 1), "fail")
    assert isinstance(error.__cause__, ValueError)


def test_records_must_be_pairs():
    """As for other keyed steps."""
    for workers in (1, 2):
        with pytest.raises(EngineRuntimeError, match=r"needs `\(key, value\)` 2-tuples"):
            cluster_main(flow_of(["x"], []), [], 0, worker_count_per_proc=workers)


def test_a_later_run_goes_on_with_states_and_timers(tmp_path: Path):
    """On another number of workers too; a timer that wasn't due in the first run comes at once."""
    config = RecoveryConfig(tmp_path, create=True)
    records: list[Any] = [(0, Hop(9)), (4, "later"), TestingSource.EOF(), (0, Hop(9))]
    out: list[Any] = []
    flow = flow_of(records, out)
    cluster_main(flow, [], 0, worker_count_per_proc=1, recovery_config=config)
    assert {(4, "later"), (9, 1)} <= {*out}
    cluster_main(flow, [], 0, worker_count_per_proc=3, recovery_config=config)
    assert sorted(out, key=repr) == [(4, "later"), (4, "now"), (9, 1), (9, 2)]


def test_a_policy_of_the_flow_leaves_actors_alone():
    """They say themselves what becomes of a message, by `supervise`."""

    class Careless(Runner):
        supervise = Resume()

    out: list[Any] = []
    dead: list[Any] = []
    flow = Dataflow("f", on_error="skip")
    acted = op.actor("act", op.input("in", flow, TestingSource([(1, "fail"), (1, "x")])), Careless)
    op.output("out", acted.out, TestingSink(out))
    op.output("dead", acted.dead_letters, TestingSink(dead))
    run_main(flow)
    assert out == [(1, "x")]
    assert [letter.reason for letter in dead] == ["ValueError: fail"]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_drain_without_a_store_waits_for_messages(workers: int):
    """They would be lost otherwise. It isn't an end of input."""
    drain, waiter = Drain(), SystemWaiter()

    def request(record: Any) -> Any:
        if record[0] == 9:
            drain.requested = True
            waiter.wake()
        return record

    out: list[Any] = []
    flow = Dataflow("f")
    records = [*((n, Hop(500)) for n in range(10)), TestingSource.PAUSE(timedelta(days=1)), (0, "")]
    s = op.map("drain", op.input("in", flow, TestingSource(records)), request)
    acted = op.actor("act", s, Runner)
    op.output("out", acted.out, TestingSink(out))
    run_flow(flow, RunOptions(workers=workers, drain=drain, waiter=waiter))
    assert len(out) == 10


@pytest.mark.parametrize("workers", [1, 2])
def test_a_message_to_a_class_that_the_step_has_not_is_a_dead_letter(workers: int):
    """Whichever worker owns the key."""

    class Stranger(Actor):
        @handles(int)
        def tell(self, ctx: Context, n: int) -> None:
            ctx.tell(Ref("Nobody", n), n)

    dead: list[Any] = []
    flow = Dataflow("f")
    s = op.input("in", flow, TestingSource([("a", n) for n in range(10)]))
    acted = op.actor("act", s, Stranger)
    op.output("out", acted.out, TestingSink([]))
    op.output("dead", op.map("of", acted.dead_letters, lambda d: d.message), TestingSink(dead))
    run_flow(flow, RunOptions(workers=workers))
    assert sorted(dead) == list(range(10))


@pytest.mark.parametrize(
    ("does", "why"),
    [
        (lambda ctx: ctx.tell("bob", 1), "as `Cls.ref.*; got 'bob' of type `str`"),
        (lambda ctx: ctx.tell(Actor, 1), "told by its ref"),
        (lambda ctx: ctx.watch("bob"), "told by its ref"),
        (
            lambda ctx: ctx.ask(None, 1, on_reply=print, timeout=timedelta(1)),
            "told by its ref.*; got None",
        ),
        (
            lambda ctx: ctx.ask(ctx.self, 1, on_reply=ctx.actor.do, timeout=5),
            "`timeout` must be a `timedelta`; got 5",
        ),
        (lambda ctx: ctx.timer("x", 5, 1), "`after` must be a `timedelta`; got 5"),
    ],
)
def test_what_a_context_is_given_wrongly_is_named(does: Callable[[Any], None], why: str):
    """By an error at the user's own line."""

    class Wrong(Actor):
        @handles(int)
        def do(self, ctx: Context, n: int) -> None:
            does(ctx)

    with pytest.raises(EngineRuntimeError) as caught:
        run_main(flow_of([("a", 1)], [], None, Wrong))
    assert re.search(why, str(caught.value.__cause__))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_actor_that_never_stops_can_be_drained(tmp_path: Path, workers: int):
    """With a store, where its message is saved; a later run goes on with it."""
    drain, waiter = Drain(), SystemWaiter()

    class Runaway(Actor):
        @handles(int)
        def go(self, ctx: Context, n: int) -> None:
            if n % 5000 == 0:
                ctx.emit(n)
            if n == 20_000:
                drain.requested = True
                waiter.wake()
            ctx.tell(Runaway.ref(1 - ctx.key), n + 1)

    out: list[Any] = []
    recovery = RecoveryConfig(tmp_path, create=True)
    options = RunOptions(workers=workers, drain=drain, waiter=waiter, recovery=recovery)
    run_flow(flow_of([(0, 0)], out, None, Runaway), options)
    assert out[:5] == [0, 5000, 10_000, 15_000, 20_000]
    # Where it stood is saved: there is one message, and it isn't the first one.
    drain.requested = False
    last = out[-1]
    out.clear()

    def goes_on(self: Any, ctx: Context, n: int) -> None:
        del self
        ctx.emit(n)

    Runaway.blueprint.handlers[int] = goes_on
    run_flow(flow_of([], out, None, Runaway), replace(options, drain=Drain()))
    assert len(out) == 1
    assert out[0] > last
