"""Crashes of a job with a step that has actors.

Two worlds are drawn. In the *bank* accounts transfer money by asks, with timeouts that come or
don't. In the *graph* tokens are handed from actor to actor, in rings, stars and at random, wait in
timers and stashes, and visit children that are spawned for them. Handlers raise now and then, after
all that they do. Whatever happens, in each epoch that is saved each command and each token is in
one place, money is neither made nor lost, and messages between two actors come in their order.
"""

from __future__ import annotations

import pickle
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random
from typing import Any, NamedTuple
from unittest.mock import patch

import engine.operators as op
from engine.dataflow import Dataflow
from engine.operators.actors import (
    Actor,
    Context,
    Exponential,
    Ref,
    Retry,
    Signal,
    Terminated,
    actor,
    handles,
)
from engine.operators.actors._mail import (
    ASK,
    FAILED,
    REPLY,
    RESULT,
    SIGNAL,
    SPAWN,
    TASK,
    TELL,
    WATCH,
    unpacked,
)
from engine.operators.actors._requests import TaskOptions
from engine.operators.tasks import TaskError
from engine.runtime import Plan, _actor_node, _actor_state, _mailboxes, plan
from engine.runtime._actor_state import is_mail_row, parts_of
from engine.runtime._recovery import JobStore
from tests.runtime.shelf import mails_of
from tests.sim.crash_checks import positions_of, states_of
from tests.sim.crash_job import LATER, CutSink, MarkedSink, Numbers, Outside
from tests.sim.crash_world import Life
from tests.sim.crashes import CrashRun

STEP = "f.act"
AGAIN = Retry(attempts=100, backoff=Exponential(timedelta(seconds=0.05), factor=1.0))


def check_acted_store(seed: int) -> Counter[str]:
    """Run the job of a seed to its end and check it; gives what happened, counted."""
    run = ActedRun(seed)
    run.run()
    return run.counts


@dataclass
class World:
    """What handlers know of the seed. One at a time."""

    luck: Random = field(default_factory=Random)
    flaky: float = 0.0
    """What share of the handlers raises."""
    timeout: timedelta = timedelta(days=1)
    """Of asks."""
    ways: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Where each node of the graph hands tokens on to."""
    waits: float = 0.0
    """What share of the tokens waits in timers."""
    stashes: float = 0.0
    spawns: float = 0.0
    tasks: float = 0.0
    """What share of them is given to functions, and comes back with what those return."""
    options: TaskOptions = field(default_factory=TaskOptions)
    """Of these functions."""

    def maybe_fail(self) -> None:
        if self.luck.random() < self.flaky:
            raise RuntimeError("bad luck")

    def draws(self, share: float) -> bool:
        return self.luck.random() < share


WORLD = World()


# The bank


@dataclass(frozen=True)
class Open:
    number: int
    amount: int


@dataclass(frozen=True)
class Transfer:
    number: int
    to: str
    amount: int


@dataclass
class Credit:
    """Not frozen: it travels as bytes."""

    number: int
    amount: int
    tries: int = 0
    """Later ones wait longer: where all fail and rest, none might ever be answered in time."""


class Account(Actor):
    """Takes money, and gives it to others."""

    supervise = AGAIN

    @dataclass
    class State:
        balance: int = 0
        opened: int = 0
        commands: list[int] = field(default_factory=list[int])
        pending: dict[int, tuple[str, int]] = field(default_factory=dict[int, tuple[str, int]])
        paid: list[int] = field(default_factory=list[int])
        seen: list[int] = field(default_factory=list[int])

    @handles(Open)
    def open(self, ctx: Context, msg: Open) -> None:
        self.state.commands.append(msg.number)
        self.state.balance += msg.amount
        self.state.opened += msg.amount
        WORLD.maybe_fail()

    @handles(Transfer)
    def transfer(self, ctx: Context, msg: Transfer) -> None:
        self.state.commands.append(msg.number)
        self.state.balance -= msg.amount
        self.state.pending[msg.number] = msg.to, msg.amount
        self._pay(ctx, Credit(msg.number, msg.amount), msg.to)
        WORLD.maybe_fail()

    def _pay(self, ctx: Context, credit: Credit, to: str) -> None:
        ctx.ask(
            Account.ref(to),
            credit,
            on_reply=self.done,
            on_timeout=self.again,
            timeout=WORLD.timeout * 2 ** min(credit.tries // 20, 6),
        )

    @handles(Credit)
    def credit(self, ctx: Context, msg: Credit) -> None:
        ctx.reply(msg.number)
        if msg.number not in self.state.seen:
            self.state.seen.append(msg.number)
            self.state.balance += msg.amount
            ctx.emit((ctx.key, ("credited", msg.number)))
        WORLD.maybe_fail()

    def done(self, ctx: Context, number: int) -> None:
        if self.state.pending.pop(number, None) is not None:
            self.state.paid.append(number)
            ctx.emit((ctx.key, ("paid", number)))
        WORLD.maybe_fail()

    def again(self, ctx: Context, credit: Credit) -> None:
        if credit.number in self.state.pending:
            credit.tries += 1
            self._pay(ctx, credit, self.state.pending[credit.number][0])
        WORLD.maybe_fail()


# The graph


@dataclass(frozen=True)
class Token:
    number: int
    hops: int
    place: int = 0
    """Its number among those of its sender to its receiver."""


def worked(msg: Token) -> Token:
    """What actors have done apart from them."""
    WORLD.maybe_fail()
    return msg


class Spot(Actor):
    """Hands tokens on."""

    supervise = AGAIN

    @dataclass
    class State:
        commands: list[int] = field(default_factory=list[int])
        sent: dict[str, int] = field(default_factory=dict[str, int])
        got: dict[str, int] = field(default_factory=dict[str, int])
        stashed: list[int] = field(default_factory=list[int])
        ended: list[int] = field(default_factory=list[int])
        children: int = 0

    @handles(Token)
    def token(self, ctx: Context, msg: Token) -> None:
        state, sender = self.state, ctx.sender
        if msg.number in state.stashed:
            state.stashed.remove(msg.number)
        elif sender is None and not msg.place:
            state.commands.append(msg.number)
        elif sender is not None and sender.actor == "Spot":
            wanted = state.got.get(sender.key, 0) + 1
            assert msg.place == wanted, f"{sender} to {ctx.key}: {msg.place} came, not {wanted}"
            state.got[sender.key] = wanted
        if WORLD.draws(WORLD.stashes):
            state.stashed.append(msg.number)
            ctx.stash()
        else:
            self._hand_on(ctx, replace(msg, place=-1))
            if state.stashed:
                ctx.unstash()
        WORLD.maybe_fail()

    def _hand_on(self, ctx: Context, msg: Token) -> None:
        state = self.state
        if msg.hops == 0:
            state.ended.append(msg.number)
            ctx.emit((ctx.key, ("ended", msg.number)))
        elif WORLD.tasks and WORLD.draws(WORLD.tasks):
            less = replace(msg, hops=msg.hops - 1)
            ctx.task(worked, less, on_result=self.worked, on_error=self.again, **WORLD.options)
        elif WORLD.draws(WORLD.waits):
            after = timedelta(seconds=WORLD.luck.choice((0.01, 0.5, 5)))
            ctx.timer(f"wait {msg.number}", after, replace(msg, hops=msg.hops - 1))
        elif WORLD.draws(WORLD.spawns):
            child = ctx.spawn(Leaf)
            ctx.watch(child)
            state.children += 1
            ctx.tell(child, replace(msg, hops=msg.hops - 1))
        else:
            to = WORLD.luck.choice(WORLD.ways[ctx.key])
            state.sent[to] = state.sent.get(to, 0) + 1
            ctx.tell(Spot.ref(to), replace(msg, hops=msg.hops - 1, place=state.sent[to]))

    def worked(self, ctx: Context, msg: Token) -> None:
        self._hand_on(ctx, msg)
        WORLD.maybe_fail()

    def again(self, ctx: Context, error: TaskError[Any]) -> None:
        (msg,) = error.record
        assert msg.place == -1
        self._hand_on(ctx, msg)
        WORLD.maybe_fail()

    def on_signal(self, ctx: Context, signal: Signal) -> None:
        if isinstance(signal, Terminated):
            self.state.children -= 1
        if self.state.stashed:
            ctx.unstash()
        WORLD.maybe_fail()


class Leaf(Actor):
    """Gives a token back, and is no more."""

    supervise = AGAIN

    @handles(Token)
    def token(self, ctx: Context, msg: Token) -> None:
        assert ctx.sender is not None
        ctx.tell(ctx.sender, msg)
        ctx.stop()
        WORLD.maybe_fail()


class Saved(NamedTuple):
    """What the store has of an actor."""

    name: str
    fields: dict[str, Any]
    mails: list[tuple[int, Any, Ref | None, int | None]]
    life: Any

    @property
    def asks(self) -> dict[int, Any]:
        return {} if self.life is None else self.life[2]

    def held(self) -> Iterator[Any]:
        """Messages that it keeps: those that wait, and those of timers and stash."""
        for kind, message, *_ in self.mails:
            if kind in (TELL, ASK, RESULT):
                yield unpacked(message)
            elif kind == TASK:
                yield from message.args()
            elif kind == FAILED:
                yield from unpacked(message).record
        if self.life is not None:
            for _, message in self.life[1].values():
                yield unpacked(message)
            for _, message, *_ in self.life[4]:
                yield unpacked(message)


@dataclass
class Acted(Outside):
    """What lies outside of a job with actors."""

    dealt: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])

    @property
    def parts(self) -> dict[str, list[Any]]:
        """What each partition of the source has."""
        return self.dealt


class ActedRun(CrashRun):
    """The history of a job with actors."""

    def _make_outside(self, seed: int, extras: Sequence[str], weather: Random | None) -> Outside:
        del extras
        rng = self._drawn = Random(f"actors {seed}")
        self._bank = rng.random() < 0.5
        self._pending_max = rng.choice((0, 3, 10_000))
        self._turn_max = Random(f"turns {seed}").choice((1, 3, 1000))
        spills = Random(f"spills {seed}")
        self._kept_max = spills.choice((0, 2, 20_000))
        self._row_mails = spills.choice((1, 2, 128))
        self._fresh_max = spills.choice((3, 50_000))
        self._passivate_s = spills.choice((None, 0.02, 1.0))
        self._world = World(self._rng, flaky=rng.choice((0.0, 0.0, 0.1, 0.3)))
        names = [f"k{number}" for number in range(rng.choice((2, 4, 8)))]
        commands = self._transfers(names) if self._bank else self._tokens_of(names)
        if Random(f"stashes {seed}").random() < 0.1:
            # Much comes back in front of what is in the store alone.
            self._world.stashes, self._kept_max, self._row_mails = 0.5, 0, 1
            self._turn_max = 3
        dealt: dict[str, list[Any]] = {"p0": [], "p1": [], "p2": [], LATER: []}
        for key, command in commands:
            dealt[f"p{int(key[1:]) % 3}"].append((key, command))
        self._acted = Acted(self._rng, (), self._chain.durable_epoch, weather, dealt=dealt)
        self._note(f"{'a bank' if self._bank else 'a graph'} of {len(names)}; {self._world}")
        return self._acted

    def _transfers(self, names: list[str]) -> list[tuple[str, Any]]:
        rng = self._drawn
        if rng.random() < 0.3:
            self._world.timeout = timedelta(seconds=rng.choice((0.2, 2)))
        opened = [(name, Open(number, 100)) for number, name in enumerate(names)]
        transfers = [
            (rng.choice(names), Transfer(number, rng.choice(names), rng.randint(1, 50)))
            for number in range(100, 100 + rng.choice((20, 60)))
        ]
        return [*opened, *transfers]

    def _tokens_of(self, names: list[str]) -> list[tuple[str, Any]]:
        rng, world = self._drawn, self._world
        shape = rng.choice(("ring", "star", "any", "self"))
        for at, name in enumerate(names):
            if shape == "ring":
                world.ways[name] = [names[(at + 1) % len(names)]]
            elif shape == "star":
                world.ways[name] = names[1:] if at == 0 else names[:1]
            elif shape == "any":
                world.ways[name] = names
            else:
                world.ways[name] = [name, rng.choice(names)]
        world.waits = rng.choice((0.0, 0.2))
        world.stashes = rng.choice((0.0, 0.2))
        world.spawns = rng.choice((0.0, 0.2))
        return [
            (rng.choice(names), Token(number, rng.randint(0, 12)))
            for number in range(rng.choice((5, 30)))
        ]

    def run(self) -> None:
        """As of any job, in its own world."""
        global WORLD  # noqa: PLW0603 - handlers have no other way to know it
        WORLD = self._world
        # Who waits for epochs, and asks again before the next one, never comes to an end.
        lasting = self._world.timeout >= timedelta(days=1)
        fresh_max, fresh_min = (self._fresh_max, 2) if lasting else (50_000, 1000)
        with (
            patch.object(_actor_node, "PENDING_MAX", self._pending_max),
            patch.object(_mailboxes, "TURN_MAX", self._turn_max),
            patch.object(_actor_state, "KEPT_MAX", self._kept_max),
            patch.object(_actor_state, "ROW_MAILS", self._row_mails),
            patch.object(_actor_node, "FRESH_MAX", fresh_max),
            patch.object(_actor_node, "FRESH_MIN", fresh_min),
            patch.object(Spot.blueprint, "passivate_s", self._passivate_s),
            patch.object(Account.blueprint, "passivate_s", self._passivate_s),
        ):
            super().run()

    def _draw_options(self) -> Any:
        options = super()._draw_options()
        return replace(options, steps_max=10 * options.steps_max)

    def _flow(self) -> Dataflow:
        flow, outside = Dataflow("f"), self._acted
        s = op.input("in", flow, Numbers(outside))
        classes = (Account,) if self._bank else (Spot, Leaf)
        acted = actor("act", s, *classes)
        if self._drawn.random() < 0.5:
            op.output("table", acted.out, MarkedSink(outside))
        else:
            shown = op.map("show", acted.out, lambda kv: (kv[0], kv))
            op.output("files", shown, CutSink(outside))
        return flow

    def _planned(self, life: Life) -> tuple[Dataflow, Plan]:
        # One flow for all lives: which sink it has was drawn once.
        if not self._plans:
            super()._planned(life)
        flow = next(iter(self._plans.values()))[0]
        if life.workers not in self._plans:
            self._plans[life.workers] = flow, plan(flow, life.workers)
        return self._plans[life.workers]

    # What must hold

    def _turn(self, life: Life) -> None:
        super()._turn(life)
        workers = [] if life.gang is None else life.gang.workers
        for stage in [stage for worker in workers for stage in worker.stages]:
            for node, _ in stage.actors:
                table = node.table
                assert table.boxes.pending == mails_of(table), "miscounted"

    def _saved(self, recovery: JobStore) -> dict[Any, Saved]:
        rows = states_of(recovery, STEP)
        found: dict[Any, Saved] = {}
        for key, row in rows.items():
            if not is_mail_row(key):
                name, _, fields, of_life = parts_of(row)
                found[key] = Saved(name, fields, [], of_life)
        waiting = sorted((k for k in rows if is_mail_row(k)), key=lambda k: k[2][1])
        for key in waiting:
            name = key[2][0]
            address = key[0] if name in ("Account", "Spot") else (key[0], None, name)
            saved = found.setdefault(address, Saved(name, {}, [], None))
            saved.mails.extend(pickle.loads(rows[key]))
        return found

    def _check_opened(self, recovery: JobStore) -> None:
        positions = positions_of(recovery, "f.in")
        saved = self._saved(recovery)
        self._check_commands(saved, positions)
        if self._bank:
            self._check_bank(saved)
        else:
            self._check_tokens(saved, positions)

    def _check_commands(self, saved: dict[Any, Saved], positions: dict[str, int]) -> None:
        """Each command was handled, or waits, in the order of its key."""
        wanted: dict[str, list[int]] = defaultdict(list)
        for name, at in positions.items():
            for key, command in self._acted.parts[name][:at]:
                wanted[key].append(command.number)
        for key, numbers in wanted.items():
            actor = saved.get(key, Saved("", {}, [], None))
            handled = list(actor.fields.get("commands", ()))
            handled += [
                message.number
                for kind, message, sender, _ in actor.mails
                if kind == TELL
                and sender is None
                and not getattr(message, "place", 0)
                and message.number not in handled
            ]
            assert handled == numbers, f"{key} has {handled}, not {numbers}"

    def _check_bank(self, saved: dict[Any, Saved]) -> None:
        total = sum(a.fields.get("balance", 0) for a in saved.values())
        opened = sum(a.fields.get("opened", 0) for a in saved.values())
        lasting = self._world.timeout >= timedelta(days=1)
        for key, account in saved.items():
            for number, (to, amount) in account.fields.get("pending", {}).items():
                other = saved.get(to, Saved("", {}, [], None))
                asked = sum(
                    kind == ASK and unpacked(message).number == number
                    for kind, message, *_ in other.mails
                )
                answered = sum(
                    kind == REPLY and message == number for kind, message, *_ in account.mails
                )
                came = number in other.fields.get("seen", ())
                if not came:
                    total += amount
                asks = sum(unpacked(ask[3]).number == number for ask in account.asks.values())
                assert asks >= 1, f"nothing waits for the answer to {number}"
                where = f"transfer {number} of {key} to {to}: {asked} asked, {answered} answered"
                assert asked + answered >= 1 or not lasting, f"{where}: it is lost"
                assert asked + answered <= 1 or not lasting, f"{where}: it is there twice"
                assert came == (answered == 1) or not lasting, where
            for number in account.fields.get("seen", ()):
                pending = any(number in a.fields.get("pending", {}) for a in saved.values())
                paid = any(number in a.fields.get("paid", ()) for a in saved.values())
                assert pending or paid, f"{number} was credited and never sent"
        assert total == opened, f"there is {total}, not {opened}"

    def _check_tokens(self, saved: dict[Any, Saved], positions: dict[str, int]) -> None:
        wanted = [
            command.number
            for name, at in positions.items()
            for _, command in self._acted.parts[name][:at]
        ]
        found = [number for a in saved.values() for number in a.fields.get("ended", ())]
        for spot in saved.values():
            found += [message.number for message in spot.held() if isinstance(message, Token)]
        assert sorted(found) == sorted(wanted), f"tokens {sorted(found)}, not {sorted(wanted)}"
        waits = sum(a.fields.get("children", 0) for a in saved.values())
        leaves = sum(a.name == "Leaf" for a in saved.values())
        signals = sum(
            kind in (SIGNAL, SPAWN, WATCH) for a in saved.values() for kind, *_ in a.mails
        )
        assert waits <= leaves + signals, "a child's end was not heard of"

    def _check_ended(self, recovery: JobStore) -> None:
        ends = {name: len(part) for name, part in self._acted.parts.items()}
        assert {LATER: 0, **positions_of(recovery, "f.in")} == ends
        self._check_opened(recovery)
        saved = self._saved(recovery)
        assert not any(a.mails for a in saved.values()), "messages are left"
        self._ended = saved

    def _check_output(self) -> None:
        """Is called before the store is looked at: only that nothing came twice."""
        outside = self._acted
        filed = [record for file in outside.files.values() for record in file.records]
        self._rows = [*outside.table, *filed]
        twice = [row for row, count in Counter(self._rows).items() if count > 1]
        assert not twice, f"{twice} came twice"

    def _check_end(self) -> None:
        super()._check_end()
        wanted: list[Any] = []
        for key, saved in self._ended.items():
            wanted += [(key, ("ended", number)) for number in saved.fields.get("ended", ())]
            wanted += [(key, ("credited", number)) for number in saved.fields.get("seen", ())]
            wanted += [(key, ("paid", number)) for number in saved.fields.get("paid", ())]
            if self._bank and self._world.timeout >= timedelta(days=1):
                assert not saved.fields["pending"], f"{key} has pending {saved.fields['pending']}"
        assert Counter(self._rows) == Counter(wanted), "the output isn't what actors have done"
