"""The endpoint of actors over real connections: what it does with answers that don't come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest

from engine.runtime import Address
from engine.runtime._actor_answers import Answered
from engine.runtime._actor_endpoint import _QUESTIONS_MAX, _Handler, _Served
from engine.runtime._ids import Epoch
from engine.runtime._web import WebServer


class FakeAnswers:
    """Answers ``/slow`` when it is told to, and everything else at once."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.told = threading.Event()

    def answer(self, target: str) -> Answered:
        if target == "/slow":
            self.asked.release()
            assert self.told.wait(30)
        return Answered("1", Epoch(4))


class Served:
    """The endpoint, and those who ask."""

    def __init__(self) -> None:
        self.answers = FakeAnswers()
        answers: Any = self.answers
        self.subject = _Served(answers)
        self.server = WebServer(Address("127.0.0.1", 0), "actors", self.subject, _Handler)

    def ask(self, target: str) -> tuple[int, str]:
        """Status and body."""
        connection = HTTPConnection(*self.server.address, timeout=30)
        connection.request("GET", target)
        response = connection.getresponse()
        found = response.status, response.read().decode()
        connection.close()
        return found


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.answers.told.set()
    served.server.close()


def test_methods_that_do_not_return_are_few(served: Served):
    """With all places taken, the next one is told so; afterwards there are places again."""
    others: list[tuple[int, str]] = []
    # One connection less than there may be, so that none is sent away for the next one.
    served.subject.places.acquire()
    asking = [
        threading.Thread(target=lambda: others.append(served.ask("/slow")))
        for _ in range(_QUESTIONS_MAX - 1)
    ]
    for thread in asking:
        thread.start()
    for _ in asking:
        assert served.answers.asked.acquire(timeout=30)
    assert served.ask("/quick") == (503, "too many questions at a time\n")
    served.answers.told.set()
    for thread in asking:
        thread.join()
    assert others == [(200, "1\n")] * len(asking)
    served.subject.places.release()
    assert served.ask("/quick") == (200, "1\n")
