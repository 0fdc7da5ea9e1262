"""A game lobby: players look for a partner, two of them play, and whoever takes too long loses.

Shows actors of three classes that work together. A lobby makes each game (`ctx.spawn`) and hears
when it is over (`ctx.watch`). A player who throws before the game has begun is made to wait
(`ctx.stash`), and timers end what would never end: a search without a partner, and a game in which
somebody doesn't throw.

The game is rock, paper, scissors; who plays is a short script. Run it from the top of the project::

    python -m engine.run examples.game_lobby:flow
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import engine.operators as op
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow
from engine.operators.actors import (
    Actor,
    Context,
    Ref,
    Signal,
    Terminated,
    handles,
)
from engine.testing import TestingSource

PATIENCE = timedelta(seconds=1)
"""How long a player waits for a partner, and a game for a throw."""
BEATS = {"rock": "scissors", "scissors": "paper", "paper": "rock"}


@dataclass(frozen=True)
class Play:
    """To a player: find somebody to play with."""


@dataclass(frozen=True)
class Throw:
    """To a player: throw this."""

    what: str


@dataclass(frozen=True)
class Seek:
    """To the lobby: somebody wants to play."""

    player: Ref


@dataclass(frozen=True)
class GiveUp:
    """To the lobby: somebody doesn't want to any more."""

    player: Ref


@dataclass(frozen=True)
class Begin:
    """To a game: these two play."""

    players: tuple[Ref, Ref]


@dataclass(frozen=True)
class Begun:
    """To a player: the sender is the game."""


@dataclass(frozen=True)
class Thrown:
    """To a game: what a player has thrown."""

    name: str
    what: str


@dataclass(frozen=True)
class Over:
    """To a player: the game is over."""


@dataclass(frozen=True)
class TooLate:
    """To oneself, by a timer."""


class Player(Actor):
    """Somebody who plays one game at a time."""

    @dataclass
    class State:
        """What it remembers."""

        game: Ref | None = None

    @handles(Play)
    def play(self, ctx: Context, _msg: Play) -> None:
        """Ask the lobby for a partner."""
        ctx.tell(Lobby.ref("lobby"), Seek(ctx.self))
        ctx.timer("patience", PATIENCE, TooLate())

    @handles(Begun)
    def begun(self, ctx: Context, _msg: Begun) -> None:
        """Somebody was found; what was thrown too early comes now."""
        self.state.game = ctx.sender
        ctx.cancel("patience")
        ctx.unstash()

    @handles(Throw)
    def throw(self, ctx: Context, msg: Throw) -> None:
        """Give it to the game, or keep it until there is one."""
        if self.state.game is None:
            ctx.stash()
        else:
            ctx.tell(self.state.game, Thrown(ctx.key, msg.what))

    @handles(Over)
    def over(self, _ctx: Context, _msg: Over) -> None:
        """Be free for the next game."""
        self.state.game = None

    @handles(TooLate)
    def too_late(self, ctx: Context, _msg: TooLate) -> None:
        """Stop looking. The game may have begun a moment ago: then it goes on."""
        if self.state.game is None:
            ctx.tell(Lobby.ref("lobby"), GiveUp(ctx.self))
            ctx.emit(f"{ctx.key} has found nobody")


class Lobby(Actor):
    """Brings players together."""

    @dataclass
    class State:
        """What it remembers."""

        waiting: list[Ref] = field(default_factory=list[Ref])
        games: int = 0

    @handles(Seek)
    def seek(self, ctx: Context, msg: Seek) -> None:
        """Have the player wait, or play with who waits."""
        self.state.waiting.append(msg.player)
        if len(self.state.waiting) == 2:
            game = ctx.spawn(Game)
            ctx.watch(game)
            ctx.tell(game, Begin(tuple(self.state.waiting)))
            self.state.waiting = []
            self.state.games += 1

    @handles(GiveUp)
    def give_up(self, _ctx: Context, msg: GiveUp) -> None:
        """Forget the player, who may be in a game by now."""
        self.state.waiting = [player for player in self.state.waiting if player != msg.player]

    def on_signal(self, ctx: Context, signal: Signal) -> None:
        """A game has stopped, whether it was played to its end or has failed."""
        if isinstance(signal, Terminated):
            self.state.games -= 1
            ctx.emit(f"games going on: {self.state.games}")


class Game(Actor):
    """One game of two players. It ends by itself."""

    @dataclass
    class State:
        """What it remembers."""

        players: tuple[Ref, ...] = ()
        thrown: dict[str, str] = field(default_factory=dict[str, str])

    @handles(Begin)
    def begin(self, ctx: Context, msg: Begin) -> None:
        """Tell both players."""
        self.state.players = msg.players
        for player in msg.players:
            ctx.tell(player, Begun())
        ctx.timer("patience", PATIENCE, TooLate())

    @handles(Thrown)
    def thrown(self, ctx: Context, msg: Thrown) -> None:
        """Note it; the second one decides."""
        self.state.thrown.setdefault(msg.name, msg.what)
        if len(self.state.thrown) == 2:
            one, other = sorted(self.state.thrown)
            if BEATS[self.state.thrown[other]] == self.state.thrown[one]:
                one, other = other, one
            same = self.state.thrown[one] == self.state.thrown[other]
            self.end(ctx, f"{one} and {other} are equal" if same else f"{one} beats {other}")

    @handles(TooLate)
    def too_late(self, ctx: Context, _msg: TooLate) -> None:
        """Somebody hasn't thrown."""
        late = sorted(player.key for player in self.state.players)
        late = [name for name in late if name not in self.state.thrown]
        self.end(ctx, f"{' and '.join(late)} took too long")

    def end(self, ctx: Context, result: str) -> None:
        """Tell everybody, and stop."""
        ctx.emit(result)
        for player in self.state.players:
            ctx.tell(player, Over())
        ctx.stop()


SCRIPT = [
    # Thrown before there is a game: it waits for it.
    ("ann", Play()),
    ("ann", Throw("rock")),
    ("bob", Play()),
    ("bob", Throw("paper")),
    ("cid", Play()),
    ("dan", Play()),
    ("dan", Throw("rock")),
    # Nobody is left for eve, and cid never throws.
    ("eve", Play()),
    TestingSource.PAUSE(2 * PATIENCE),
    ("cid", Play()),
    ("eve", Play()),
    ("cid", Throw("paper")),
    ("eve", Throw("paper")),
]

flow = Dataflow("game_lobby")
script = op.input("script", flow, TestingSource(SCRIPT, batch_size=20))
lobby = op.actor("lobby", script, Player, Lobby, Game)
op.output("out", lobby.out, StdOutSink())
