"""Metrics and health of all workers of a job, at one address.

The server (`engine.runtime._web`) answers from threads of its own with what the monitor knows, so
it neither waits for the run nor holds it up. It serves whoever can connect: on this machine's own
address unless told otherwise.
"""

from __future__ import annotations

from http import HTTPStatus

from engine.runtime._address import Address
from engine.runtime._exposition import CONTENT_TYPE, exposition
from engine.runtime._monitor import Monitor
from engine.runtime._web import WebHandler, WebServer


def serve_metrics(address: Address, monitor: Monitor) -> WebServer[Monitor]:
    """Serve what a monitor knows, until it is closed.

    Raises:
        AddressError: The address can't be listened at.
    """
    return WebServer(address, "metrics", monitor, _Handler)


class _Handler(WebHandler[Monitor]):
    """Answers one request."""

    def respond(self) -> None:
        """Answer."""
        path, monitor = self.path.partition("?")[0], self.subject
        if path == "/metrics":
            self.answer(HTTPStatus.OK, exposition(monitor), CONTENT_TYPE)
        elif path == "/livez":
            self._say_health(monitor.stuck())
        elif path == "/readyz":
            self._say_health(monitor.not_ready())
        else:
            self.say(HTTPStatus.NOT_FOUND, "there are /metrics, /livez and /readyz")

    def _say_health(self, trouble: str | None) -> None:
        if trouble is None:
            self.say(HTTPStatus.OK, "ok")
        else:
            self.say(HTTPStatus.SERVICE_UNAVAILABLE, trouble)
