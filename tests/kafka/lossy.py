"""Networks between clients and a broker that change what goes by.

They know Kafka's frames well enough to tell one request from another. A `LossyProxy` loses the end
of a transaction: it cuts the connection either before the broker gets it or after the broker has
answered. In the first case the transaction is still open, in the second one it is committed, and
the client can't tell which. A `ForgetfulProxy` leaves the brokers out of what a broker says of its
cluster, as one does that has just been taken for dead itself.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Literal, TypeAlias

METADATA, END_TXN = 3, 26
"""Numbers of the requests that ask for the cluster and that end a transaction, in the protocol."""
_HEAD = struct.Struct(">ihhi")
"""Of a request: length, number, version, correlation id."""

Lost: TypeAlias = Literal["request", "response"]


class Proxy:
    """Listens at a port of this machine, and passes on to a broker's what comes.

    Args:
        target: The broker's port.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def request(self, number: int, frame: bytes) -> bytes | None:
        """What to pass on of a request; None to do so and change its answer, nothing to cut."""
        raise NotImplementedError

    def answer(self, frame: bytes) -> bytes:
        """What to pass on of the answer to a request for which it said None; nothing to cut."""
        raise NotImplementedError

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
            noted: set[int] = set()
            for work in (self._requests, self._responses):
                threading.Thread(target=work, args=(client, broker, noted), daemon=True).start()

    def _requests(self, client: socket.socket, broker: socket.socket, noted: set[int]) -> None:
        with contextlib.suppress(OSError):
            while frame := _frame(client):
                _, number, _, correlation = _HEAD.unpack_from(frame)
                passed = self.request(number, frame)
                if passed is None:
                    noted.add(correlation)
                    passed = frame
                if not passed:
                    break
                broker.sendall(passed)
        _cut(client)
        _cut(broker)

    def _responses(self, client: socket.socket, broker: socket.socket, noted: set[int]) -> None:
        with contextlib.suppress(OSError):
            while frame := _frame(broker):
                is_noted = struct.unpack_from(">i", frame, 4)[0] in noted
                passed = self.answer(frame) if is_noted else frame
                if not passed:
                    break
                client.sendall(passed)
        _cut(client)
        _cut(broker)


class LossyProxy(Proxy):
    """Loses every second end of a transaction.

    Args:
        target: The broker's port.
        what: Of an end, whether the broker does not get it or the client does not hear of it.

    Attributes:
        ends: How many ends of transactions came by.
        lost: How many of them were lost.
    """

    def __init__(self, target: int, what: Lost) -> None:
        self._what = what
        self.ends = 0
        self.lost = 0
        self._lock = threading.Lock()
        super().__init__(target)

    def request(self, number: int, frame: bytes) -> bytes | None:
        if number != END_TXN or not self._is_lost():
            return frame
        return b"" if self._what == "request" else None

    def answer(self, frame: bytes) -> bytes:
        return b""

    def _is_lost(self) -> bool:
        with self._lock:
            self.ends += 1
            is_lost = self.ends % 2 == 0
            self.lost += is_lost
            return is_lost


class ForgetfulProxy(Proxy):
    """Leaves out all brokers of what is said of the cluster, while it is told to.

    Attributes:
        forgets: Whether it does so now.
        forgot: How many times it has.
    """

    def __init__(self, target: int) -> None:
        self.forgets = False
        self.forgot = 0
        super().__init__(target)

    def request(self, number: int, frame: bytes) -> bytes | None:
        return None if number == METADATA and self.forgets else frame

    def answer(self, frame: bytes) -> bytes:
        """Length, correlation id, no tags, throttle time; then an array of brokers, then more."""
        begin = 4 + 4 + 1 + 4
        count, at = _varint(frame, begin)
        for _ in range(count - 1):
            host_size, at = _varint(frame, at + 4)
            rack_size, at = _varint(frame, at + host_size - 1 + 4)
            tags, at = _varint(frame, at + max(0, rack_size - 1))
            assert tags == 0
        self.forgot += 1
        without = frame[4:begin] + bytes([1]) + frame[at:]
        return len(without).to_bytes(4, "big") + without


def _varint(frame: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = frame[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


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
