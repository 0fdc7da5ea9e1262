"""A real Kafka broker of a test: one node, loopback only, that can be killed and started again."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.kafka.client import QUIET, WAIT_S, Kafka
from tests.kafka.distribution import distribution, write_properties

PORTS = range(20_000, 32_000)
"""Below those that the system gives to whoever connects, or one might be taken in a restart."""
START_S_MAX = 150.0
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "num.partitions": "1",
    "auto.create.topics.enable": "false",
    # Internal topics: one broker holds all, and few partitions are made quickly.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # No waiting: for more members of a group, and after a kill for the broker's own ghost.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "broker.session.timeout.ms": "1500",
    "broker.heartbeat.interval.ms": "300",
    # Open transactions whose producers are gone are looked for more often than each 10 s.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    # One node with little to do.
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": "4194304",
}
"""What each broker of the tests is set to, besides its ports and folders."""
STEADY = {"broker.session.timeout.ms": "60000"}
"""For a broker that nobody kills, which need not be taken for dead soon.

On a busy machine it was, while it was well, and says for a moment then that its partitions have no
leader and its cluster no broker.
"""
DYING_WITH_US = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Becomes the program that it is given, which then ends with the thread that has started this."""


def free_ports(count: int) -> list[int]:
    """Ports at which nobody listens."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().choice(PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
    return found


class Broker(Kafka):
    """A broker in a process of its own, which is made now and runs after `start`.

    As a context manager it is started, and killed at the end.

    Args:
        folder: Where its data, its settings and its log go. Made if it isn't there.
        listeners: More ways in: their names and their security protocols, such as
            ``{"PROXIED": "PLAINTEXT"}``. ``PLAIN`` is always there.
        settings: Of the broker, besides what all have.
        port: Of ``PLAIN``; a free one if nobody says.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        listeners: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        protocols = {"PLAIN": "PLAINTEXT", **(listeners or {})}
        *ports, self._controller = free_ports(len(protocols) + 1)
        self.ports = dict(zip(protocols, ports, strict=True))
        if port is not None:
            self.ports["PLAIN"] = port
        super().__init__(f"127.0.0.1:{self.ports['PLAIN']}")
        self.advertised: dict[str, int] = {}
        self.folder = folder
        self.log = folder / "broker.log"
        self._protocols = protocols
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None

    def address_of(self, listener: str) -> str:
        """Host and port of a way in."""
        return f"127.0.0.1:{self.ports[listener]}"

    def advertise(self, listener: str, port: int) -> None:
        """Tell clients of a listener to come to another port, where a proxy listens."""
        self.advertised[listener] = port

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def data(self) -> Path:
        """The folder of its data."""
        return self.folder / "data"

    def segments(self, topic: str, partition: int = 0) -> list[Path]:
        """The files that hold the records of a partition, oldest first."""
        return sorted(self.data.joinpath(f"{topic}-{partition}").glob("*.log"))

    def start(self) -> None:
        """Start it, and wait until it answers."""
        kafka = distribution()
        if not self.data.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.copytree(kafka.formatted, self.data)
        properties = self.folder / "server.properties"
        write_properties(properties, self._properties())
        command = kafka.java("kafka.Kafka", str(properties))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-c", DYING_WITH_US, str(os.getpid()), *command],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_it_answers()

    def _properties(self) -> dict[str, str]:
        ways = {**self.ports, "CONTROLLER": self._controller}
        protocols = {**self._protocols, "CONTROLLER": "PLAINTEXT"}
        told = {**self.ports, **self.advertised}
        return {
            **SETTINGS,
            "log.dirs": str(self.data),
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller}",
            "inter.broker.listener.name": "PLAIN",
            "listeners": _joined(f"{name}://127.0.0.1:{port}" for name, port in ways.items()),
            "advertised.listeners": _joined(
                f"{name}://127.0.0.1:{port}" for name, port in told.items()
            ),
            "listener.security.protocol.map": _joined(f"{n}:{p}" for n, p in protocols.items()),
            **self._settings,
        }

    def _wait_until_it_answers(self) -> None:
        until_s = time.monotonic() + START_S_MAX
        while not self._answers():
            assert self._process is not None
            assert self._process.poll() is None, f"it has ended: {self._last_words()}"
            assert time.monotonic() < until_s, f"it does not answer: {self._last_words()}"
            time.sleep(0.02)

    def _answers(self) -> bool:
        # A client would wait longer and longer between its attempts.
        with socket.socket() as probe:
            code = probe.connect_ex(("127.0.0.1", self.ports["PLAIN"]))
            if code == errno.ECONNREFUSED:
                return False
        try:
            found = AdminClient({"bootstrap.servers": self.address, **QUIET}).list_topics(timeout=5)
        except KafkaException:
            return False
        return bool(found.brokers)

    def _last_words(self) -> str:
        return self.log.read_text(encoding="utf-8")[-3000:]

    def stop(self) -> None:
        """End it in an orderly way."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with `kill -9`; its data stay as they are."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(WAIT_S)
            self._process = None

    def restart(self) -> None:
        """Kill it if it runs, and start it with the same ports and data."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop it where it is: it holds its connections and says nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after a pause."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.data, ignore_errors=True)


def _joined(parts: Iterator[str]) -> str:
    return ",".join(parts)
