"""The web server by which a job's actors are asked: ``GET /actors/<step>/<key>``.

It listens at this machine's own address and nowhere else, because what it tells is users' data. A
page in a browser could be made to ask for it under another machine's name; so only requests for
this machine's own names are answered.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator
from http import HTTPStatus
from typing import Final

from engine.dataflow import Dataflow
from engine.errors import FlowError
from engine.runtime._actor_answers import ActorAnswers, RefusedError
from engine.runtime._address import Address
from engine.runtime._plan import plan
from engine.runtime._questions import Desk
from engine.runtime._web import WebHandler, WebServer

_LOOPBACK: Final = "127.0.0.1"
_OWN_NAMES: Final = frozenset({_LOOPBACK, "localhost"})
_QUESTIONS_MAX: Final = 16
"""How many may be under way: a method that never returns holds the place of one."""


class _Served:
    """What requests are answered from."""

    def __init__(self, answers: ActorAnswers) -> None:
        self.answers = answers
        self.places = threading.BoundedSemaphore(_QUESTIONS_MAX)


@contextlib.contextmanager
def serving_actors(
    port: int, flow: Dataflow, wake: Callable[[], None], tell: Callable[[str], None]
) -> Generator[Desk]:
    """Have the actors of a flow answer at a port of this machine for as long as this lasts.

    Args:
        port: Where; 0 for any that is free.
        flow: Whose actors.
        wake: Has who drives the run look at the desk.
        tell: Takes lines for people.

    Raises:
        AddressError: The port can't be listened at.
        FlowError: No actor of the flow can be asked anything.
    """
    desk = Desk(wake)
    answers = ActorAnswers(plan(flow), desk, tell)
    if answers.silent:
        msg = (
            "no step of the flow has actors that could be asked: mark methods of their classes "
            "with `shared`, or leave out --ask"
        )
        raise FlowError(msg)
    server = WebServer(Address(_LOOPBACK, port), "actors", _Served(answers), _Handler)
    try:
        tell(f"actors answer at http://{server.address}/actors")
        yield desk
    finally:
        server.close()


class _Handler(WebHandler[_Served]):
    """Answers one request."""

    def respond(self) -> None:
        """Answer."""
        host = self.headers.get("Host", _LOOPBACK).partition(":")[0]
        if host.lower() not in _OWN_NAMES:
            self.say(HTTPStatus.FORBIDDEN, f"only this machine's own names: {_LOOPBACK}, localhost")
            return
        places = self.subject.places
        if not places.acquire(blocking=False):
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many questions at a time")
            return
        try:
            found = self.subject.answers.answer(self.path)
        except RefusedError as ex:
            self._refuse(ex.status, ex.why)
            return
        finally:
            places.release()
        headers = {} if found.epoch is None else {"Engine_Epoch": str(found.epoch)}
        self.answer(HTTPStatus.OK, f"{found.text}\n".encode(), "application/json", **headers)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.say(status, why, Retry_After="1")
        else:
            self.say(status, why)
