"""What a path and a query are answered, where the desk is a dict: no threads, no sockets."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow
from engine.operators.actors import Actor, Asked, Context, Ref, actor, handles, shared
from engine.runtime import plan
from engine.runtime._actor_answers import ActorAnswers, RefusedError
from engine.runtime._actor_state import ActorForm
from engine.runtime._ids import Epoch
from engine.runtime._questions import Answer, Desk, UnansweredError
from engine.testing import TestingSink, TestingSource


@dataclass
class Rich:
    """What `json` can't write by itself."""

    amount: Decimal = Decimal("1.50")
    at: datetime = datetime(2020, 1, 2, tzinfo=UTC)
    after: timedelta = timedelta(minutes=1)


class Account(Actor):
    @dataclass
    class State:
        balance: int = 0
        seen: list[int] = field(default_factory=list[int])

    @handles(int)
    def deposit(self, ctx: Context, amount: int) -> None: ...

    @shared
    def balance(self, asked: Asked, *, times: int = 1) -> dict[str, Any]:
        self.state.balance *= times
        self.state.seen.append(times)
        return {"of": asked.key, "epoch": asked.epoch, "balance": self.state.balance}

    @shared
    def rich(self, asked: Asked) -> Rich:
        return Rich()

    @shared
    def broken(self, asked: Asked) -> float:
        return self.state.balance / 0

    @shared
    def unwritable(self, asked: Asked) -> Any:
        return object()


class Game(Actor):
    @dataclass
    class State:
        players: int = 0

    @shared
    def players(self, asked: Asked) -> int:
        return self.state.players


class Silent(Actor):
    """Can't be asked."""


def flow_of(*classes: type[Actor]) -> Dataflow:
    flow = Dataflow("bank")
    commands = op.input("in", flow, TestingSource[Any]([]))
    op.output("out", actor("accounts", commands, *classes).out, TestingSink([]))
    return flow


class FakeDesk(Desk):
    """Answers at once, from rows by step and address."""

    def __init__(self) -> None:
        super().__init__(lambda: None)
        self.rows: dict[Any, Any] = {}
        self.epoch = Epoch(12)
        self.trouble = ""
        self.busy = False

    def ask(self, step_id: str, row_key: Any, key: Any, timeout_s: float) -> Answer:
        if self.busy:
            msg = "worker 0 has been busy"
            raise UnansweredError(msg)
        row = self.rows.get((step_id, row_key))
        return Answer(1, self.epoch, pickle.dumps(row), self.trouble)


class Scene:
    """Accounts, first of all, with games and what can't be asked."""

    def __init__(self) -> None:
        self.desk, self.told = FakeDesk(), list[str]()
        classes = (Account, Game, Silent)
        self.answers = ActorAnswers(plan(flow_of(*classes)), self.desk, self.told.append)
        self.form = ActorForm({cls.__name__: cls.blueprint for cls in classes})

    def store(self, address: Any, cls: type[Actor], **state: Any) -> None:
        """Have the store have an actor."""
        made = cls.blueprint.new()
        made.state = cls.State(**state)
        self.desk.rows["bank.accounts", address] = self.form.to_stored(made)

    def get(self, target: str) -> Any:
        """What is answered."""
        return json.loads(self.answers.answer(target).text)

    def refused(self, target: str) -> tuple[HTTPStatus, str]:
        """How it is refused."""
        with pytest.raises(RefusedError) as caught:
            self.answers.answer(target)
        return caught.value.status, caught.value.why


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.store("ann", Account, balance=5)
    return scene


def test_a_shared_method_answers_from_the_stored_state(scene: Scene):
    """With the epoch that it is of."""
    said = {"of": "ann", "epoch": 12, "balance": 5}
    assert scene.get("/actors/accounts/ann?ask=balance") == said
    assert scene.get("/actors/bank.accounts/ann?ask=balance") == said
    assert scene.answers.answer("/actors/accounts/ann?ask=balance").epoch == 12


def test_what_a_method_does_to_the_state_has_no_effect(scene: Scene):
    """Each question has a copy of its own, with lists of its own."""
    assert scene.get("/actors/accounts/ann?ask=balance&times=3")["balance"] == 15
    assert scene.get("/actors/accounts/ann?ask=balance&times=3")["balance"] == 15
    assert pickle.dumps(scene.desk.rows["bank.accounts", "ann"]).count(b"seen") == 1


def test_another_class_is_named_in_the_query(scene: Scene):
    """With only one method there is no need to say which."""
    scene.store(Ref("Game", "ann"), Game, players=3)
    assert scene.get("/actors/accounts/ann?class=Game") == 3


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a%2Fb%20%C3%A9%3F", "a/b é?"),
        ("7", "7"),
        ("7?key=json", 7),
        ("%5B%22a%22%2C%5B1%5D%5D?key=json", ("a", (1,))),
        ("%22a%22?key=json", "a"),
        ("a?key=text", "a"),
    ],
)
def test_a_key_is_a_text_or_json(path: str, key: Any, scene: Scene):
    """Percent-encoded; a list of JSON is a tuple."""
    scene.store(key, Account)
    joined = f"{path}{'&' if '?' in path else '?'}ask=balance"
    found = scene.get(f"/actors/accounts/{joined}")["of"]
    assert found == json.loads(json.dumps(key))


def test_dataclasses_and_times_have_forms_in_json(scene: Scene):
    """Fields by name; a number that isn't a float's stays exact."""
    expected = {"amount": "1.50", "at": "2020-01-02T00:00:00+00:00", "after": 60.0}
    assert scene.get("/actors/accounts/ann?ask=rich") == expected


def test_it_says_what_there_is(scene: Scene):
    """Steps with their classes and shared methods."""
    methods = ["balance", "broken", "rich", "unwritable"]
    listed = {"accounts": {"Account": methods, "Game": ["players"], "Silent": []}}
    assert scene.get("/actors") == listed
    assert scene.get("/actors/") == listed


@pytest.mark.parametrize(
    ("target", "status", "why"),
    [
        ("/metrics", 404, "there is /actors/<step>/<key>"),
        ("/actors/accounts", 404, "the path must be /actors/<step>/<key>"),
        ("/actors/accounts/a/b", 404, "with a / in a key written as %2F"),
        ("/actors/games/ann", 404, "no actors in step 'games'; there is 'accounts'"),
        ("/actors/accounts/zoe?ask=balance", 404, "epoch 12 has no Account with key 'zoe'"),
        ("/actors/accounts/ann?class=Gmae", 404, "no actors of class 'Gmae'; it has Account, Game"),
        ("/actors/accounts/ann?class=Silent", 404, "no methods marked as `shared`"),
        ("/actors/accounts/ann", 400, "say what to ask with ?ask=, one of balance, broken"),
        ("/actors/accounts/ann?ask=blance", 400, "can't be asked for 'blance'; it has balance"),
        ("/actors/accounts/ann?ask=deposit", 400, "can't be asked for 'deposit'"),
        ("/actors/accounts/ann?ask=balance&times=x", 400, "'times' of 'balance' must be int"),
        ("/actors/accounts/ann?ask=balance&ask=rich", 400, "says something twice"),
        ("/actors/accounts/ann?ask", 400, "is not name=value"),
        ("/actors/accounts/%ff?ask=balance", 400, "is not UTF-8"),
        ("/actors/accounts/ann?ask=balance&key=yaml", 400, "?key=yaml is none of text"),
        ("/actors/accounts/ann?ask=balance&key=json", 400, "'ann' is not JSON"),
        ("/actors/accounts/1.5?ask=balance&key=json", 400, "a key must be a `str`, `bytes`"),
        ("/actors/accounts/%7B%7D?ask=balance&key=json", 400, "a key must be a `str`, `bytes`"),
    ],
)
def test_what_cannot_be_asked_is_refused(target: str, status: int, why: str, scene: Scene):
    """In a line that says what there is instead."""
    found, said = scene.refused(target)
    assert found == status
    assert why in said
    assert scene.told == []


@pytest.mark.parametrize(
    ("change", "status", "why"),
    [
        (lambda desk: setattr(desk, "busy", True), 503, "worker 0 has been busy"),
        (lambda desk: setattr(desk, "epoch", Epoch(0)), 503, "no epoch is saved yet"),
        (lambda desk: setattr(desk, "trouble", "it is damaged"), 500, "it is damaged"),
    ],
)
def test_a_store_that_has_no_answer(
    change: Callable[[FakeDesk], None], status: int, why: str, scene: Scene
):
    """Now, or at all."""
    change(scene.desk)
    found, said = scene.refused("/actors/accounts/ann?ask=balance")
    assert found == status
    assert why in said


def test_a_method_that_raises_is_told_to_both(scene: Scene):
    """To whoever has asked, and in the log of the run with the key and the step."""
    status, why = scene.refused("/actors/accounts/ann?ask=broken")
    assert (status, why) == (500, "Account.broken has raised ZeroDivisionError: division by zero")
    assert scene.told == [f"asked for 'ann' of step 'bank.accounts': {why}"]


def test_an_answer_that_is_no_json_is_told_to_both(scene: Scene):
    """As above."""
    status, why = scene.refused("/actors/accounts/ann?ask=unwritable")
    assert status == 500
    assert why.startswith("what Account.unwritable gives can't be written as JSON: object has no")
    assert scene.told == [f"asked for 'ann' of step 'bank.accounts': {why}"]


def test_a_class_that_is_first_no_more_is_told(scene: Scene):
    """As the run would say when it comes to such an actor."""
    scene.desk.rows["bank.accounts", "bob"] = scene.form.to_stored(Game.blueprint.new())
    status, why = scene.refused("/actors/accounts/bob?ask=balance")
    assert status == 500
    assert "give the classes in their old order" in why


def test_a_flow_without_shared_methods_is_silent(scene: Scene):
    """There would be nothing to serve."""
    assert not scene.answers.silent
    assert ActorAnswers(plan(flow_of(Silent)), scene.desk, print).silent
