"""The job's web server: metrics and health of all its workers at one address.

It answers from threads of its own with what the monitor knows, so it neither waits for the run nor
holds it up. It serves whoever can connect: on this machine's own address unless told otherwise.
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
from typing import Any

from engine.errors import MetricsAddressError
from engine.runtime._address import Address
from engine.runtime._exposition import CONTENT_TYPE, exposition
from engine.runtime._monitor import Monitor

_TIMEOUT_S = 5.0
"""How long a client may keep the server waiting for a piece of its request."""
_CONNECTIONS_MAX = 16
_TEXT = "text/plain; charset=utf-8"


class Endpoint:
    """Listens from its construction until `close`.

    Args:
        address: Where.
        monitor: What to tell of.

    Raises:
        MetricsAddressError: The address can't be listened at.
    """

    def __init__(self, address: Address, monitor: Monitor) -> None:
        try:
            self._server = _Server(address, monitor)
        except OSError as ex:
            raise _refused(address, ex) from ex
        self.address = Address(address.host, self._server.server_address[1])
        """With the port that was chosen where any would do."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="engine-metrics", daemon=True
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


def _refused(address: Address, ex: OSError) -> MetricsAddressError:
    why = os.strerror(ex.errno) if ex.errno is not None and ex.errno > 0 else str(ex)
    hint = "give an address of this machine"
    if ex.errno == errno.EADDRINUSE:
        why = "something else listens there, perhaps another run"
        hint = "give another port, or 0 for any that is free"
    elif ex.errno == errno.EACCES:
        hint = "give a port from 1024 on"
    return MetricsAddressError(f"can't serve metrics at {address}: {why}; {hint}")


class _Server(ThreadingHTTPServer):
    """One thread for each connection; of too many the oldest goes, so a slow one blocks nobody."""

    daemon_threads = True
    allow_reuse_port = False

    def __init__(self, address: Address, monitor: Monitor) -> None:
        self.monitor = monitor
        self._open: dict[socket.socket, None] = {}
        self._changing = threading.Lock()
        if ":" in address.host:
            self.address_family = socket.AF_INET6
        super().__init__((address.host, address.port), _Handler)

    def server_bind(self) -> None:
        """Bind, without asking a name server how this machine is called."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own."""
        with self._changing:
            if len(self._open) >= _CONNECTIONS_MAX:
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


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server_version = "engine"
    sys_version = ""
    timeout = _TIMEOUT_S

    def parse_request(self) -> bool:
        """As it comes; anything but GET is refused."""
        if not super().parse_request():
            return False
        if self.command != "GET":
            self._say(HTTPStatus.METHOD_NOT_ALLOWED, "only GET", Allow="GET")
            return False
        return True

    def do_GET(self) -> None:
        """Answer."""
        assert isinstance(self.server, _Server)  # noqa: S101
        path, monitor = self.path.partition("?")[0], self.server.monitor
        if path == "/metrics":
            self._send(HTTPStatus.OK, exposition(monitor), CONTENT_TYPE)
        elif path == "/livez":
            self._say_health(monitor.stuck())
        elif path == "/readyz":
            self._say_health(monitor.not_ready())
        else:
            self._say(HTTPStatus.NOT_FOUND, "there are /metrics, /livez and /readyz")

    def _say_health(self, trouble: str | None) -> None:
        if trouble is None:
            self._say(HTTPStatus.OK, "ok")
        else:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, trouble)

    def _say(self, status: HTTPStatus, line: str, **headers: str) -> None:
        self._send(status, f"{line}\n".encode(), _TEXT, **headers)

    def _send(self, status: HTTPStatus, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base
        """Requests are no news: standard error is for what people must know."""
