"""Keeps a broker for several processes of one test run, and ends it when the last one is gone.

``python -m tests.kafka.keeper FOLDER`` starts the broker and writes the file ``port`` into the
folder. Whoever connects there is told the broker's address and uses it until his connection ends,
which it also does when he is killed. `shared_broker` is the other side.

pytest-xdist has no process of its own that could hold a broker for its workers: they end when they
have no more tests, the one that has started a broker perhaps long before another that uses it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.kafka.broker import START_S_MAX, STEADY, Broker
from tests.kafka.distribution import distribution, locked

FIRST_USER_S_MAX = 60.0
ROOT = Path(__file__).parents[2]


def main(folder: Path) -> None:
    """Keep a broker.

    Args:
        folder: Where it is, and the port.
    """
    port, unready = folder / "port", folder / "port.unready"
    with (
        Broker(folder / "broker", settings=STEADY) as broker,
        socket.create_server(("127.0.0.1", 0)) as door,
    ):
        unready.write_text(str(door.getsockname()[1]), encoding="ascii")
        unready.rename(port)
        users = _serve(door, broker.address)
        # Who comes from here on finds nothing, or a door that closes, and starts another keeper.
        port.unlink()
        door.close()
    for user in users:
        user.close()


def _serve(door: socket.socket, address: str) -> list[socket.socket]:
    """Let users in until all are gone; gives the connection of the last one, who waits for us."""
    users: list[socket.socket] = []
    while True:
        patience_s = None if users else FIRST_USER_S_MAX
        ready, _, _ = select.select([door, *users], [], [], patience_s)
        if not ready:
            return []
        if door in ready:
            user, _ = door.accept()
            user.sendall(f"{address}\n".encode())
            users.append(user)
        # Users say nothing: one that can be read is gone.
        for user in [user for user in users if user in ready]:
            if len(users) == 1:
                return users
            users.remove(user)
            user.close()


@contextlib.contextmanager
def shared_broker(folder: Path) -> Iterator[str]:
    """Use the broker of a folder, which is started if nobody uses it yet; gives its address.

    Args:
        folder: The same for all processes that are to share one. It exists.

    Raises:
        KafkaUnavailableError: As `distribution` does.
    """
    distribution()
    with locked(folder / "lock"):
        connection = _connection(folder) or _started(folder)
    with connection, connection.makefile("r", encoding="ascii") as told:
        yield told.readline().strip()
        connection.shutdown(socket.SHUT_WR)
        # The last one waits until the broker is gone.
        told.read()


def _connection(folder: Path) -> socket.socket | None:
    try:
        port = int((folder / "port").read_text(encoding="ascii"))
        connection = socket.create_connection(("127.0.0.1", port))
    except (FileNotFoundError, ConnectionError):
        return None
    with contextlib.suppress(ConnectionError):
        if connection.recv(1, socket.MSG_PEEK):
            return connection
    connection.close()
    return None


def _started(folder: Path) -> socket.socket:
    """Start a keeper, which belongs to nobody in particular: this process may end before it."""
    log = folder / "keeper.log"
    command = [sys.executable, "-m", "tests.kafka.keeper", str(folder)]
    how = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        sys.executable,
        command,
        {**os.environ, "PYTHONPATH": str(ROOT)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, str(log), how, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    until_s = time.monotonic() + START_S_MAX
    while (connection := _connection(folder)) is None:
        ended, _ = os.waitpid(pid, os.WNOHANG)
        assert not ended, f"no broker: {log.read_text(encoding='utf-8')}"
        assert time.monotonic() < until_s, f"no broker: {log.read_text(encoding='utf-8')}"
        time.sleep(0.02)
    return connection


if __name__ == "__main__":
    main(Path(sys.argv[1]))
