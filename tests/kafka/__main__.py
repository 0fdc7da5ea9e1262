"""A Kafka broker to try things with: ``python -m tests.kafka`` runs it at 127.0.0.1:9092.

It is the broker of the tests, so it wants Java 17 and Maven, which fetches Apache Kafka the first
time. Ctrl-C ends it, and what was written to it is gone. A number behind the command has it listen
at another port.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import tempfile
from pathlib import Path

from tests.kafka.broker import Broker
from tests.kafka.distribution import KafkaUnavailableError

PORT = 9092


def main() -> None:
    """Run a broker until Ctrl-C or SIGTERM."""
    port = int(sys.argv[1]) if sys.argv[1:] else PORT
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        sys.exit(f"somebody else listens at 127.0.0.1:{port}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    say("starting; the first time, Maven fetches Apache Kafka, which takes a minute or two")
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory() as folder:
        try:
            with Broker(Path(folder), port=port) as broker:
                say(f"Apache Kafka listens at {broker.address}; Ctrl-C ends it")
                signal.pause()
        except KafkaUnavailableError as ex:
            sys.exit(str(ex))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
