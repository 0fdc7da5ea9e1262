"""Handlers that don't return: who is told what, and what goes on meanwhile."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow
from engine.operators.actors import Actor, Context, handles
from engine.runtime import RunOptions, _handler_watch, plan, run_flow
from engine.runtime._actor_owners import ActorOwners
from engine.runtime._actor_table import ActorTable
from engine.runtime._handler_watch import watching_handlers
from engine.testing import TestingSink, TestingSource

TIMEOUT_S = 60


class Told:
    """Takes lines, which a test can wait for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.came = threading.Semaphore(0)

    def __call__(self, line: str) -> None:
        if "has been at" in line:
            self.lines.append(line)
            self.came.release()

    def wait(self) -> str:
        """The next line."""
        assert self.came.acquire(timeout=TIMEOUT_S)
        return self.lines[-1]


def flow_of(cls: type[Actor], records: list[Any], out: list[Any]) -> Dataflow:
    flow = Dataflow("f")
    acted = op.actor("act", op.input("in", flow, TestingSource(records, 1)), cls)
    op.output("out", acted.out, TestingSink(out))
    return flow


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Handlers count as blocking after a twentieth of a second."""
    monkeypatch.setattr(_handler_watch, "BLOCKED_S", 0.05)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("way", ["take", "message", "life", "reply"])
def test_a_handler_that_blocks_is_named(way: str):
    """With its step, the actor, the type of the message, and where it is; however it was called."""
    told = Told()

    class Slow(Actor):
        @handles(int)
        def work(self, ctx: Context, n: int) -> None:
            if n == 0 and way == "message":
                ctx.tell(ctx.self, 1)
            elif n == 0 and way == "life":
                ctx.become(self.work_late)
                ctx.tell(ctx.self, 1)
            else:
                self.work_late(ctx, n)

        def work_late(self, _: Context, n: int) -> None:
            told.wait()

    records = [("a", 0), *[("a", 1)] * (way == "reply")]
    run_flow(flow_of(Slow, records, []), RunOptions(tell=told))
    said = "step 'f.act': Slow.ref('a') has been at a message of type `int` for 0."
    assert told.lines[0].startswith(said)
    assert "Slow.work" in told.lines[0]
    assert "test_handler_watch.py:" in told.lines[0]


@pytest.mark.usefixtures("quick")
def test_other_workers_go_on_meanwhile():
    """What blocks one is freed by a record that another one handles."""
    told, freed = Told(), threading.Event()

    class Either(Actor):
        @handles(str)
        def work(self, ctx: Context, what: str) -> None:
            if what == "block":
                told.wait()
                assert freed.wait(TIMEOUT_S)
            else:
                ctx.emit(ctx.key)
                freed.set()

    out: list[Any] = []
    keys, owner = [f"k{n}" for n in range(30)], ActorOwners(2).of_key
    # The source is on the first worker.
    blocked = next(key for key in keys if owner(key) == 1)
    records = [(blocked, "block"), *((key, "free") for key in keys)]
    run_flow(flow_of(Either, records, out), RunOptions(workers=2, tell=told))
    assert len(out) == 30


@pytest.mark.usefixtures("quick")
def test_an_endless_loop_is_told_of_again_and_again():
    """Each time when it has taken twice as long, and by the same words."""
    told, ends = Told(), threading.Event()

    class Endless(Actor):
        @handles(int)
        def work(self, _: Context, n: int) -> None:
            while not ends.is_set():
                pass

    planned = plan(flow_of(Endless, [], []))
    table = ActorTable((Endless,), "f.act", lambda: 0.5)
    table.admit([("a", 1)])
    threading.Thread(target=lambda: [told.wait() for _ in range(3)] and ends.set()).start()
    with watching_handlers(planned, told):
        table.run(0.0, 1)
    assert ends.is_set()
    assert len(told.lines) < 20


def test_many_short_calls_are_no_long_one(monkeypatch: pytest.MonkeyPatch):
    """However long they take together."""
    monkeypatch.setattr(_handler_watch, "BLOCKED_S", 1.0)
    told, calls = Told(), 0

    class Busy(Actor):
        @handles(int)
        def work(self, ctx: Context, n: int) -> None:
            nonlocal calls
            calls += 1
            threading.Event().wait(0.002)
            if n:
                ctx.tell(ctx.self, n - 1)

    table = ActorTable((Busy,), "f.act", lambda: 0.5)
    table.admit([("a", 600)])
    with watching_handlers(plan(flow_of(Busy, [], [])), told):
        while table.boxes.has_ready:
            table.run(0.0, 1)
    assert calls == 601
    assert told.lines == []


def test_a_flow_without_actors_has_no_watch():
    """And no thread for it."""
    flow = Dataflow("f")
    op.output("out", op.input("in", flow, TestingSource([])), TestingSink([]))
    before = threading.active_count()
    with watching_handlers(plan(flow), print):
        assert threading.active_count() == before
