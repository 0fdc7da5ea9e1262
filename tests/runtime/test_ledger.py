"""Resources are counted exactly, never lent twice, and everybody's turn comes."""

import pytest

from engine.errors import InternalError
from engine.operators.tasks._resources import Label, Resources
from engine.runtime._ledger import Ledger


def test_demand_is_taken_whole_or_not_at_all():
    """Where one of two resources is short, the other one isn't touched."""
    ledger = Ledger(Resources(cpu=2, gpu=1))
    assert ledger.take(Resources(cpu=1, gpu=1))
    assert not ledger.take(Resources(cpu=1, gpu=0.5))
    assert ledger.take(Resources(cpu=1))
    assert not ledger.take(Resources(cpu=0.0001))


def test_tenths_add_up():
    """Ten times a tenth is one: nothing is left, and nothing is missing afterwards."""
    ledger, tenth = Ledger(Resources(cpu=1)), Resources(cpu=0.1)
    assert [ledger.take(tenth) for _ in range(11)] == [True] * 10 + [False]
    for _ in range(10):
        ledger.give_back(tenth)
    assert ledger.take(Resources(cpu=1))


def test_what_was_not_taken_can_not_be_given_back():
    """An account that is wrong is found out."""
    ledger = Ledger(Resources(cpu=1))
    with pytest.raises(InternalError, match="wasn't taken"):
        ledger.give_back(Resources(cpu=1))


def test_what_nobody_offers_can_never_be_taken():
    """A worker says what it could do if it were free."""
    ledger = Ledger(Resources(cpu=1, licences=2))
    assert ledger.take(Resources(cpu=1))
    assert ledger.could(Resources(cpu=1, licences=2))
    assert not ledger.could(Resources(gpu=0.1))
    assert not ledger.could(Resources(licences=2.5))


def test_a_large_demand_is_met_however_many_small_ones_there_are():
    """What is given back is kept for who has waited longest, until there is enough for it."""
    ledger = Ledger(Resources(cpu=2))
    small, large, one, two = ledger.account(), ledger.account(), Resources(cpu=1), Resources(cpu=2)
    assert small.take(1, one)
    assert small.take(2, one)
    assert not large.take(1, two)
    small.give_back(1)
    assert not small.take(3, one)
    small.give_back(2)
    assert large.has(two)
    assert large.take(1, two)


def test_what_who_waits_does_not_want_is_free_for_others():
    """Waiting for a graphics processor keeps nobody from the processors beyond its demand."""
    ledger = Ledger(Resources(cpu=2, gpu=1))
    first, waiting, other = ledger.account(), ledger.account(), ledger.account()
    assert first.take(1, Resources(gpu=1))
    assert not waiting.take(1, Resources(cpu=1, gpu=1))
    assert other.take(1, Resources(cpu=1))
    assert not other.take(2, Resources(cpu=1))
    assert ledger.free() == {"cpu": 0, "gpu": -10_000}


def test_those_who_want_more_take_turns():
    """Who was served goes to the end of the line."""
    ledger, cpu = Ledger(Resources(cpu=1)), Resources(cpu=1)
    a, b = ledger.account(), ledger.account()
    assert a.take(1, cpu)
    assert not b.take(1, cpu)
    assert not a.take(2, cpu)
    a.give_back(1)
    assert not a.has(cpu)
    assert b.take(1, cpu)
    b.give_back(1)
    assert a.take(2, cpu)


def test_who_leaves_the_line_holds_up_nobody():
    """What it waited for is for others."""
    ledger, cpu = Ledger(Resources(cpu=1)), Resources(cpu=1)
    a, b = ledger.account(), ledger.account()
    assert a.take(1, cpu)
    assert not b.take(1, cpu)
    a.give_back(1)
    b.leave()
    assert a.take(2, cpu)


def test_a_call_gives_back_once():
    """Whoever is told twice that a call is over does no harm."""
    ledger, cpu = Ledger(Resources(cpu=1)), Resources(cpu=1)
    account = ledger.account()
    assert account.take(7, cpu)
    assert ledger.taken() == {"cpu": 10_000}
    account.give_back(7)
    account.give_back(7)
    assert ledger.taken() == {"cpu": 0}


@pytest.mark.parametrize("amount", [-1, float("nan"), float("inf"), 0.00001])
def test_amounts_make_sense(amount: float):
    """What can't be counted is refused."""
    with pytest.raises(ValueError, match="cpu"):
        Resources(cpu=amount)


@pytest.mark.parametrize("amount", ["4GB", True])
def test_amounts_are_numbers(amount: object):
    """Texts are for the command line."""
    with pytest.raises(TypeError, match="memory"):
        Resources(memory=amount)  # type: ignore[arg-type]


def test_labels_are_names():
    """A label that no worker could offer is refused."""
    with pytest.raises(ValueError, match="gpu 1"):
        Label("gpu 1")
