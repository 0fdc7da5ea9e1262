"""Classes of actors: what is wrong with one is said when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow
from engine.errors import UserCodeError
from engine.operators.actors import Actor, Ref, handles
from engine.testing import TestingSource


@dataclass(frozen=True)
class Deposit:
    amount: int


def test_a_handler_annotated_otherwise_is_refused():
    """The class can't be made, and the error names both types."""
    with pytest.raises(TypeError, match=r"handling `Deposit`.*'msg' is annotated as `int`"):

        class Wrong(Actor):
            @handles(Deposit)
            def deposit(self, ctx: Any, msg: int) -> None: ...


def test_a_handler_may_be_annotated_more_widely():
    """With a base of what it handles, or not at all."""

    class Right(Actor):
        @handles(Deposit)
        def deposit(self, ctx: Any, msg: object) -> None: ...

        @handles(int)
        def number(self, ctx: Any, msg) -> None: ...

    assert set(Right.blueprint.handlers) == {Deposit, int}


def test_a_handler_with_other_parameters_is_refused():
    """It must take the context and a message."""
    with pytest.raises(TypeError, match="must take `self`, `ctx` and a message"):

        class Wrong(Actor):
            @handles(int)
            def number(self, msg: int) -> None: ...


def test_an_async_handler_is_refused():
    """What waits can't be saved."""
    with pytest.raises(TypeError, match="must not be `async def`"):

        class Wrong(Actor):
            @handles(int)
            async def number(self, ctx: Any, msg: int) -> None: ...


def test_handles_wants_a_class():
    """Not a name, and not the function itself."""
    with pytest.raises(TypeError, match="takes the class of the messages"):
        handles("int")  # type: ignore[arg-type]


def test_a_state_without_defaults_is_refused():
    """An actor begins with them."""
    with pytest.raises(TypeError, match="'balance' has none"):

        class Wrong(Actor):
            @dataclass
            class State:
                balance: int


def test_a_state_that_is_no_dataclass_is_refused():
    """Its fields would not be known."""
    with pytest.raises(TypeError, match="must be a dataclass"):

        class Wrong(Actor):
            class State:
                balance = 0


def test_a_state_with_slots_is_refused():
    """What it holds is saved by the names of its attributes."""
    with pytest.raises(TypeError, match="without slots"):

        class Wrong(Actor):
            @dataclass(slots=True)
            class State:
                balance: int = 0


def test_each_actor_has_a_state_of_its_own():
    """Lists that are defaults aren't shared."""

    class Lists(Actor):
        @dataclass
        class State:
            seen: list[int] = field(default_factory=list[int])

    one, other = Lists.blueprint.new(), Lists.blueprint.new()
    one.state.seen.append(1)
    assert other.state.seen == []


def test_handlers_are_inherited_and_replaced():
    """A class derived from another one handles what that one does, its own way if it says so."""

    class Base(Actor):
        @handles(int)
        def number(self, ctx: Any, msg: int) -> None: ...

        @handles(str)
        def text(self, ctx: Any, msg: str) -> None: ...

    class Derived(Base):
        @handles(int)
        def number(self, ctx: Any, msg: int) -> None: ...

    assert Derived.blueprint.handlers == {int: Derived.number, str: Base.text}


def test_refs_are_values():
    """Of one address they are equal, whoever made them."""

    class Account(Actor): ...

    ref = Account.ref("ann")
    assert ref == Ref("Account", "ann")
    assert len({ref, Ref("Account", "ann"), Ref("Other", "ann")}) == 2
    assert repr(ref) == "Account.ref('ann')"


def test_a_ref_wants_a_key():
    """Whatever can't be one is refused."""

    class Account(Actor): ...

    with pytest.raises(UserCodeError, match="a key must be"):
        Account.ref(1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("classes", "error", "said"),
    [
        ((), TypeError, "needs a class of actors"),
        ((int,), TypeError, "must be derived from `Actor`"),
        ((Actor,), TypeError, "must be derived from `Actor`"),
    ],
)
def test_a_step_wants_classes_of_actors(
    classes: tuple[Any, ...], error: type[Exception], said: str
):
    """One at least, and nothing else."""
    s = op.input("in", Dataflow("f"), TestingSource([]))
    with pytest.raises(error, match=said):
        op.actor("act", s, *classes)


def test_two_classes_of_one_name_are_refused():
    """The store knows them by their names."""

    class Account(Actor): ...

    s = op.input("in", Dataflow("f"), TestingSource([]))
    with pytest.raises(ValueError, match="different names"):
        op.actor("act", s, Account, Account)
