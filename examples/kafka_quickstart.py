"""Kafka quickstart: the flow of `examples.kafka_statistics` on a broker that needs no installation.

Kafka's client library can play a broker inside a process, for tests. This starts one, writes
readings of sensors to it, runs the flow over them, and prints what confluent-kafka's own consumer
then finds in the topic of statistics: the last one of each sensor::

    python -m examples.kafka_quickstart

That broker knows no transactions, so the flow runs at least once, and it ends with the process. On
a real one the same flow runs exactly once: `examples.kafka_statistics` tells how.
"""

from __future__ import annotations

import sys

from engine.testing import run_main
from examples.kafka_statistics import statistics
from examples.kafka_tools import by_key, mock_broker, produce, read


def main() -> None:
    """Events in, statistics out, and a look at them."""
    with mock_broker("readings", "statistics") as address:
        produce(address, "readings", 1000)
        run_main(statistics([address], tail=False, delivery="at-least-once"))
        for sensor, told in by_key(read(address, "statistics")).items():
            sys.stdout.write(f"{sensor}: {told[-1]}\n")


if __name__ == "__main__":
    main()
