"""Resources are counted exactly, and never lent twice."""

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
