"""Device twins: an actor for each device knows what it last said, and what it should be like.

Shows timers, and two kinds of messages to one actor: a twin notices that its device has said
nothing for a second, and tells it what to change until it says that it has.

What devices and people say is a short script here. Run it from the top of the project::

    python -m engine.run examples.device_twins:flow
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import engine.operators as op
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow
from engine.operators.actors import Actor, Asked, Context, handles, shared
from engine.testing import TestingSource

SILENCE = timedelta(seconds=1)
"""After this time without a word a device is offline."""


@dataclass(frozen=True)
class Report:
    """From a device: how one of its settings is."""

    setting: str
    value: int


@dataclass(frozen=True)
class Desire:
    """From somebody: how a setting should be."""

    setting: str
    value: int


@dataclass(frozen=True)
class Silence:
    """From the twin itself: nothing was heard of the device."""


class Twin(Actor):
    """What is known of a device, whether it can be reached or not."""

    @dataclass
    class State:
        """What it remembers."""

        online: bool = False
        reported: dict[str, int] = field(default_factory=dict[str, int])
        desired: dict[str, int] = field(default_factory=dict[str, int])

    @handles(Report)
    def report(self, ctx: Context, msg: Report) -> None:
        """Note what the device says of itself, and that it is there."""
        if not self.state.online:
            self.state.online = True
            ctx.emit(f"{ctx.key} is online")
        # In place of the timer of the report before: each one gives the device more time.
        ctx.timer("silence", SILENCE, Silence())
        self.state.reported[msg.setting] = msg.value
        self.correct(ctx, msg.setting)

    @handles(Desire)
    def desire(self, ctx: Context, msg: Desire) -> None:
        """Note what is wanted. A device that is offline hears of it when it is back."""
        self.state.desired[msg.setting] = msg.value
        if self.state.online:
            self.correct(ctx, msg.setting)

    def correct(self, ctx: Context, setting: str) -> None:
        """Tell the device what to change, if it isn't as it should be."""
        is_now = self.state.reported.get(setting)
        wanted = self.state.desired.get(setting, is_now)
        if wanted != is_now:
            ctx.emit(f"{ctx.key}: set {setting} to {wanted}")

    @handles(Silence)
    def silent(self, ctx: Context, _msg: Silence) -> None:
        """The timer has run out."""
        self.state.online = False
        ctx.emit(f"{ctx.key} is offline")

    @shared
    def twin(self, asked: Asked) -> dict[str, object]:
        """What is told to those who ask from outside (``-r DIR --ask PORT``)."""
        return {"device": asked.key, "twin": self.state}


SCRIPT = [
    ("pump", Report("speed", 100)),
    ("lamp", Report("light", 0)),
    ("pump", Desire("speed", 80)),
    ("pump", Report("speed", 80)),
    TestingSource.PAUSE(2 * SILENCE),
    # Nobody is there to hear it now.
    ("lamp", Desire("light", 7)),
    ("lamp", Report("light", 0)),
]

flow = Dataflow("device_twins")
said = op.input("said", flow, TestingSource(SCRIPT, batch_size=10))
twins = op.actor("twins", said, Twin)
op.output("out", twins.out, StdOutSink())
