"""A network that can fail: connections pass through it, and it cuts, stills or damages them."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from dataclasses import dataclass, field

_CHUNK_BYTES = 1 << 16


@dataclass(eq=False)
class _Pair:
    """A connection that came and the one that was made for it."""

    ends: tuple[socket.socket, socket.socket]
    passed: int = 0
    still: bool = False
    damage: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class Proxy:
    """Listens at a port of this machine and passes on to another one what comes.

    Args:
        target: The other port.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._still = False
        self._pairs: list[_Pair] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._over = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                came, _ = self._socket.accept()
            except OSError:
                return
            try:
                made = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                came.close()
                continue
            pair = _Pair((came, made), still=self._still)
            self._pairs.append(pair)
            threading.Thread(target=self._carry, args=(pair,), daemon=True).start()

    def _carry(self, pair: _Pair) -> None:
        other = {pair.ends[0]: pair.ends[1], pair.ends[1]: pair.ends[0]}
        with contextlib.suppress(OSError, ValueError):
            while not self._over.is_set():
                ready, _, _ = select.select(pair.ends, [], [], 0.05)
                for sock in ready:
                    data = sock.recv(_CHUNK_BYTES)
                    if not data:
                        raise OSError
                    if pair.still:
                        continue  # As a host that is gone: what is sent to it is lost.
                    if pair.damage:
                        pair.damage = False
                        spot = len(data) // 2
                        data = data[:spot] + bytes([data[spot] ^ 1]) + data[spot + 1 :]
                    other[sock].sendall(data)
                    pair.passed += len(data)
        for sock in pair.ends:
            sock.close()
        if pair in self._pairs:
            self._pairs.remove(pair)

    @property
    def busy(self) -> list[_Pair]:
        """The connections that are past their first words."""
        return [pair for pair in self._pairs if pair.passed > 2000]

    def cut(self, number: int) -> None:
        """End a connection for both ends."""
        for end in self.busy[number % len(self.busy)].ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def damage(self, number: int) -> None:
        """Change a bit of the next that goes over a connection."""
        self.busy[number % len(self.busy)].damage = True

    def still(self, *, still: bool) -> None:
        """Swallow all that comes from now on, over connections that are there and new ones.

        Connections that were there never say a word again.
        """
        self._still = still
        for pair in self._pairs:
            pair.still = pair.still or still

    def close(self) -> None:
        """Stop."""
        self._over.set()
        self._socket.close()
