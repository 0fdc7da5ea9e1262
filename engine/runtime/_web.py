"""The web servers of a job: they answer `GET` in threads of their own, and nobody can block them.

What there is to be had, the handlers say: metrics and health (`engine.runtime._endpoint`), and what
actors are asked (`engine.runtime._actor_endpoint`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Generic, TypeVar

from engine.errors import AddressError
from engine.runtime._address import Address

_TIMEOUT_S = 5.0
"""How long a client may keep a server waiting for a piece of its request."""
CONNECTIONS_MAX = 16
_TEXT = "text/plain; charset=utf-8"

S = TypeVar("S")


class WebServer(Generic[S]):
    """Listens from its construction until `close`.

    Args:
        address: Where.
        what: What is served, in a word or two.
        subject: What handlers answer from.
        handler: Answers one request.

    Raises:
        AddressError: The address can't be listened at.
    """

    def __init__(
        self, address: Address, what: str, subject: S, handler: type[WebHandler[S]]
    ) -> None:
        try:
            self._server = _Server(address, subject, handler)
        except OSError as ex:
            raise _refused(address, what, ex) from ex
        self.address = Address(address.host, self._server.server_address[1])
        """With the port that was chosen where any would do."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, name=f"engine-{what}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        # It looks up from its listening at once, and sees that it is to stop.
        with contextlib.suppress(OSError):
            self._server.socket.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _refused(address: Address, what: str, ex: OSError) -> AddressError:
    why = os.strerror(ex.errno) if ex.errno is not None and ex.errno > 0 else str(ex)
    hint = "give an address of this machine"
    if ex.errno == errno.EADDRINUSE:
        why = "something else listens there, perhaps another run"
        hint = "give another port, or 0 for any that is free"
    elif ex.errno == errno.EACCES:
        hint = "give a port from 1024 on"
    return AddressError(f"can't serve {what} at {address}: {why}; {hint}")


class _Server(ThreadingHTTPServer, Generic[S]):
    """One thread for each connection; of too many the oldest goes, so a slow one blocks nobody."""

    daemon_threads = True
    allow_reuse_port = False

    def __init__(self, address: Address, subject: S, handler: type[WebHandler[S]]) -> None:
        self.subject = subject
        self._open: dict[socket.socket, None] = {}
        self._changing = threading.Lock()
        if ":" in address.host:
            self.address_family = socket.AF_INET6
        super().__init__((address.host, address.port), handler)

    def server_bind(self) -> None:
        """Bind, without asking a name server how this machine is called."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own."""
        with self._changing:
            if len(self._open) >= CONNECTIONS_MAX:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """The connection is done with."""
        with self._changing:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or was sent away, is no news."""


class WebHandler(BaseHTTPRequestHandler, Generic[S]):
    """Answers one request: the base of handlers, which define `respond`."""

    server_version = "engine"
    sys_version = ""
    timeout = _TIMEOUT_S

    @property
    def subject(self) -> S:
        """What the server was given to answer from."""
        server: Any = self.server
        found: S = server.subject
        return found

    def parse_request(self) -> bool:
        """As it comes; anything but GET is refused."""
        if not super().parse_request():
            return False
        if self.command != "GET":
            self.say(HTTPStatus.METHOD_NOT_ALLOWED, "only GET", Allow="GET")
            return False
        return True

    def do_GET(self) -> None:
        """Answer."""
        self.respond()

    def respond(self) -> None:
        """Answer by `say` or `answer`: the subclass's."""
        raise NotImplementedError

    def say(self, status: HTTPStatus, line: str, **headers: str) -> None:
        """Answer with a line of text."""
        self.answer(status, f"{line}\n".encode(), _TEXT, **headers)

    def answer(self, status: HTTPStatus, body: bytes, kind: str, **headers: str) -> None:
        """Answer.

        Args:
            status: The first line's.
            body: What follows the headers.
            kind: Its media type.
            headers: More of them, with underscores in place of dashes.
        """
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base
        """Requests are no news: standard error is for what people must know."""
