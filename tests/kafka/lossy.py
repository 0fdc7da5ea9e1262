"""A network between clients and a broker that loses the end of a transaction.

It knows Kafka's frames well enough to tell which request ends a transaction, and cuts the
connection either before the broker gets it or after the broker has answered: in the first case the
transaction is still open, in the second one it is committed, and the client can't tell which.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Literal, TypeAlias

END_TXN = 26
"""Number of the request that ends a transaction, in Kafka's protocol."""
_HEAD = struct.Struct(">ihhi")
"""Of a request: length, number, version, correlation id."""

Lost: TypeAlias = Literal["request", "response"]


class LossyProxy:
    """Listens at a port of this machine, and passes on to a broker's what comes.

    Args:
        target: The broker's port.
        lost: What does not arrive of every second end of a transaction.

    Attributes:
        port: Where it listens.
        ends: How many ends of transactions came by.
        lost: How many of them were lost.
    """

    def __init__(self, target: int, what: Lost) -> None:
        self._target = target
        self._what = what
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.ends = 0
        self.lost = 0
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """Stop, and cut what there is."""
        # It would not wake up the thread that waits for connections to close the socket only.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for end in self._open:
            _cut(end)

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self._open += [client, broker]
            doomed: set[int] = set()
            for work in (self._requests, self._responses):
                threading.Thread(target=work, args=(client, broker, doomed), daemon=True).start()

    def _requests(self, client: socket.socket, broker: socket.socket, doomed: set[int]) -> None:
        with contextlib.suppress(OSError):
            while frame := _frame(client):
                _, request, _, correlation = _HEAD.unpack_from(frame)
                if request == END_TXN and self._is_lost():
                    if self._what == "request":
                        break
                    doomed.add(correlation)
                broker.sendall(frame)
        _cut(client)
        _cut(broker)

    def _responses(self, client: socket.socket, broker: socket.socket, doomed: set[int]) -> None:
        with contextlib.suppress(OSError):
            while frame := _frame(broker):
                if struct.unpack_from(">i", frame, 4)[0] in doomed:
                    break
                client.sendall(frame)
        _cut(client)
        _cut(broker)

    def _is_lost(self) -> bool:
        with self._lock:
            self.ends += 1
            is_lost = self.ends % 2 == 0
            self.lost += is_lost
            return is_lost


def _frame(sock: socket.socket) -> bytes:
    """The next one with its length in front; nothing at the end."""
    head = _exactly(sock, 4)
    if not head:
        return b""
    body = _exactly(sock, int.from_bytes(head, "big"))
    return head + body if body else b""


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = sock.recv(min(count - len(data), 1 << 18))
        if not more:
            return b""
        data += more
    return bytes(data)


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
