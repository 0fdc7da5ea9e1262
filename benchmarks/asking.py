"""The flow whose asks `workloads/actors_beside.py` times: one actor asks another one.

It asks again when the answer has come. At its end it emits how long each took, and the sink of its
worker writes that to a file.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import engine.operators as op
from engine.dataflow import Dataflow
from engine.keys import key_group, owner
from engine.operators.actors import Actor, Context, actor, handles
from engine.outputs import DynamicSink, StatelessSinkPartition
from engine.testing import TestingSource

TIMEOUT = timedelta(minutes=1)
WARM_UP = 200
"""So many are asked before those that count."""

_took_ns: list[int] = []
"""Not in the asker's state, where it would be copied before each handler."""


def _key_of(worker: int) -> str:
    """A key that is owned by one of two workers."""
    return next(key for key in map(str, range(1000)) if owner(key_group(key), 2) == worker)


ASKS, ANSWERS = _key_of(0), _key_of(1)


class Answerer(Actor):
    """Gives back what it is asked."""

    @handles(int)
    def answer(self, ctx: Context, number: int) -> None:
        ctx.reply(number)


class Asker(Actor):
    """Asks again and again, and takes the time."""

    @dataclass
    class State:
        """How many it has still to ask, and when it asked last."""

        left: int = 0
        asked_ns: int = 0

    @handles(int)
    def begin(self, ctx: Context, asks: int) -> None:
        self.state.left = asks
        self.ask(ctx)

    def ask(self, ctx: Context) -> None:
        self.state.asked_ns = time.perf_counter_ns()
        asked = Answerer.ref(ANSWERS)
        ctx.ask(asked, self.state.left, on_reply=self.answered, timeout=TIMEOUT)

    def answered(self, ctx: Context, number: int) -> None:
        _took_ns.append(time.perf_counter_ns() - self.state.asked_ns)
        assert number == self.state.left
        self.state.left -= 1
        if self.state.left:
            self.ask(ctx)
        else:
            ctx.emit(_took_ns[WARM_UP:])


class Written(DynamicSink[Any], StatelessSinkPartition[Any]):
    """Writes what comes to a file."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> Written:
        return self

    def write_batch(self, items: list[Any]) -> None:
        self._path.write_text(json.dumps(items[0]), encoding="utf-8")


def flow_of(asks: int, path: str) -> Dataflow:
    """The flow: on two workers each of the actors is on one of them."""
    flow = Dataflow("asking")
    first = op.input("in", flow, TestingSource([(ASKS, asks + WARM_UP)]))
    op.output("out", actor("ask", first, Asker, Answerer).out, Written(path))
    return flow
