"""The ports' real sides, as far as they can be tested without waiting."""

from __future__ import annotations

import math
import signal
import threading
from datetime import UTC, datetime

import pytest

from engine.clock import clock_set_to, utc_now
from engine.runtime import EdgeId, SystemWaiter, WorkerIndex
from engine.runtime._ports import NoNetwork


def test_a_wake_ends_the_next_wait():
    """Whoever wakes just before the worker goes to sleep is not forgotten."""
    waiter = SystemWaiter()
    waiter.wake()
    waiter.wait(math.inf)


def test_wakes_do_not_add_up():
    """Many are as good as one: after one wait nothing is left of them."""
    waiter = SystemWaiter()
    waiter.wake()
    waiter.wake()
    waiter.wait(math.inf)
    assert not waiter._woken.acquire(blocking=False)


def test_another_thread_may_wake():
    """Whether the wait has begun by then or not."""
    waiter = SystemWaiter()
    thread = threading.Thread(target=waiter.wait, args=[math.inf])
    thread.start()
    waiter.wake()
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_short_waits_can_be_woken_too():
    """They take another way, which must not leave a wake behind."""
    waiter = SystemWaiter()
    waiter.wake()
    waiter.wait(0.001)
    assert not waiter._woken.acquire(blocking=False)


def test_a_signal_handler_may_wake():
    """It runs in the middle of the wait it ends."""
    waiter = SystemWaiter()
    before = signal.signal(signal.SIGALRM, lambda *_: waiter.wake())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        waiter.wait(math.inf)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_worker_that_is_alone_sends_nothing():
    """If it tries to, its plan is wrong."""
    edge, worker = EdgeId(0), WorkerIndex(0)
    with pytest.raises(AssertionError):
        NoNetwork().send(edge, worker, worker, [])
    with pytest.raises(AssertionError):
        NoNetwork().return_credit(edge, worker, worker)


# The clock of connectors and operators


def test_the_clock_can_be_set_and_is_set_back():
    """In nested contexts too, and after an error."""
    one, two = datetime(2001, 1, 1, tzinfo=UTC), datetime(2002, 1, 1, tzinfo=UTC)
    with clock_set_to(lambda: one):
        with clock_set_to(lambda: two):
            assert utc_now() == two
        assert utc_now() == one
        with pytest.raises(KeyError), clock_set_to(lambda: two):
            raise KeyError
        assert utc_now() == one
    assert utc_now() > datetime(2020, 1, 1, tzinfo=UTC)


def test_the_clock_of_other_threads_is_left_alone():
    """A simulation doesn't change the time of a run beside it."""
    seen: list[datetime] = []
    with clock_set_to(lambda: datetime(2001, 1, 1, tzinfo=UTC)):
        thread = threading.Thread(target=lambda: seen.append(utc_now()))
        thread.start()
        thread.join()
    assert seen[0] > datetime(2020, 1, 1, tzinfo=UTC)
