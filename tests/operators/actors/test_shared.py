"""Methods that are asked from outside: which may be, and what a query says to them."""

from __future__ import annotations

from typing import Any

import pytest

from engine.operators.actors import Actor, Asked, handles, shared


class Base(Actor):
    @shared
    def old(self, asked: Asked) -> int:
        return 1


class Account(Base):
    @handles(int)
    def deposit(self, ctx: Any, amount: int) -> None: ...

    @shared
    def balance(
        self, asked: Asked, *, unit: str, digits: int = 2, rate: float = 1.0, plain: bool = False
    ) -> str:
        return f"{unit}{digits}{rate}{plain}"


BALANCE = Account.blueprint.shared["balance"]


def test_a_class_has_those_of_its_bases_too():
    """Only marked methods, by name."""
    assert set(Account.blueprint.shared) == {"old", "balance"}


def test_arguments_are_what_the_annotations_say():
    """Texts become numbers and truth values."""
    said = {"unit": "EUR", "digits": "3", "rate": "0.5", "plain": "true"}
    assert BALANCE.arguments(said) == {"unit": "EUR", "digits": 3, "rate": 0.5, "plain": True}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "needs the parameter 'unit'"),
        ({"unit": "x", "colour": "red"}, "no parameter 'colour'; there is 'unit', 'digits'"),
        ({"unit": "x", "digits": "two"}, "'digits' of 'balance' must be int; got 'two'"),
        ({"unit": "x", "rate": "much"}, "'rate' of 'balance' must be float"),
        ({"unit": "x", "plain": "yes"}, "'plain' of 'balance' must be bool, true or false"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(said: dict[str, str], why: str):
    """The error says which parameter, and what it must be."""
    with pytest.raises(ValueError, match=why):
        BALANCE.arguments(said)


def test_a_method_without_an_asked_is_refused():
    """When the class is made."""
    with pytest.raises(TypeError, match=r"shared method .*look.* must take `self` and an `Asked`"):

        class Wrong(Actor):
            @shared
            def look(self) -> None: ...


def test_a_coroutine_is_refused():
    """Nobody would await it."""
    with pytest.raises(TypeError, match="must not be `async def`"):

        class Wrong(Actor):
            @shared
            async def look(self, asked: Asked) -> None: ...


def test_what_is_no_plain_method_is_refused():
    """There would be no state to look at."""
    with pytest.raises(TypeError, match="must be a plain method"):

        class Wrong(Actor):
            @staticmethod
            @shared
            def look(asked: Asked) -> None: ...


def test_parameters_must_have_kinds_that_a_text_can_give():
    """A list in a URL could be meant in many ways; a parameter by position has no name."""
    with pytest.raises(TypeError, match="parameter 'what' of .* comes from a URL"):

        class List(Actor):
            @shared
            def look(self, asked: Asked, *, what: list[int]) -> None: ...

    with pytest.raises(TypeError, match=r"must stand behind a `\*`"):

        class Position(Actor):
            @shared
            def look(self, asked: Asked, what: str) -> None: ...


def test_parameters_must_not_have_the_names_that_address_an_actor():
    """They would never get a value."""
    with pytest.raises(TypeError, match="'key' of .* must have another name"):

        class Wrong(Actor):
            @shared
            def look(self, asked: Asked, *, key: str) -> None: ...
