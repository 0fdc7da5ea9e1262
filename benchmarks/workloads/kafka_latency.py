"""K3: how long a message takes from one topic through keyed state to another, at a steady pace.

The contender runs in a process of its own; this one writes messages at their pace, each with the
time in it, and reads what comes out. A latency goes from the call that hands the message to the
producer to the moment at which the reader has the result, so it has two passes through the broker
and the lingering of both producers in it. The bare loop is `kafka.produce_bare` without an end.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.contenders import BARE_UDF, ENGINES, load_engine
from benchmarks.workloads._base import SIDE_BY_SIDE, Layout, Metric, Outcome
from benchmarks.workloads.kafka import (
    KEYS,
    PARTITIONS,
    READING,
    WRITING,
    address,
    count_key,
    new_topic,
    send,
)

PACE_S = 0.001
WARM_UP_S = 1.0
PATIENCE_S = 60.0


def numbered(stamp: bytes | None, message: Any) -> tuple[int, tuple[int, bytes]]:
    """Count, and hand the time on that the message has in it."""
    count, _ = count_key(stamp, message)  # type: ignore[arg-type]
    return count, (count, message.value)


# The contenders, each in a process of its own


def loop(topic: str, out: str) -> None:
    """The bare loop, for ever."""
    consumer = Consumer({"bootstrap.servers": address(), **READING})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    producer = Producer({"bootstrap.servers": address(), **WRITING})
    counts: dict[bytes, int] = {}
    while True:
        for message in consumer.consume(500, 0.001):
            if message.error() is None:
                key: Any = message.key()
                counts[key], _ = count_key(counts.get(key), message)
                send(producer, out, message.value(), key)  # type: ignore[arg-type]
        producer.poll(0)


def flow(family: str, topic: str, out: str) -> None:
    """A flow of an engine, for ever."""
    engine = load_engine(family)
    kafka = importlib.import_module(f"{family}.connectors.kafka")
    op = engine.operators
    settings = {} if family == "engine" else {"fetch.queue.backoff.ms": "10"}
    source = kafka.KafkaSource([address()], [topic], add_config=settings)
    dataflow = engine.dataflow.Dataflow("benchmark")
    keyed = op.key_on("key", op.input("in", dataflow, source), lambda message: message.key.decode())
    counts = op.stateful_map("count", keyed, numbered)
    messages = op.map(
        "message", counts, lambda item: kafka.KafkaSinkMessage(item[0].encode(), item[1][1])
    )
    op.output("out", messages, kafka.KafkaSink([address()], out))
    with tempfile.TemporaryDirectory(prefix="bench-kafka-") as folder:
        options: dict[str, Any] = {"recovery_config": engine.new_store(folder)}
        engine.testing.run_main(dataflow, epoch_interval=timedelta(seconds=1), **options)


# The measurement


class _Reader(threading.Thread):
    """Notes the latency of each message that comes out."""

    def __init__(self, topic: str) -> None:
        super().__init__(daemon=True)
        self.latencies_ms: list[tuple[int, float]] = []
        self.over = False
        self._consumer = Consumer({"bootstrap.servers": address(), **READING})
        self._consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])

    def run(self) -> None:
        while not self.over:
            messages = self._consumer.consume(500, 0.001)
            now_ns = time.perf_counter_ns()
            for message in messages:
                if message.error() is None:
                    stamp_ns = int(message.value() or b"0")
                    self.latencies_ms.append((stamp_ns, (now_ns - stamp_ns) / 1e6))
        self._consumer.close()


def _paced(producer: Producer, topic: str, records: int, per_second: int) -> None:
    """Write messages at their pace, each with the time in it."""
    started_s, sent = time.perf_counter(), 0
    while sent < records:
        due = min(records, int((time.perf_counter() - started_s) * per_second) + 1)
        for number in range(sent, due):
            stamp = b"%d" % time.perf_counter_ns()
            send(producer, topic, stamp, b"key%03d" % (number % KEYS))
        producer.poll(0)
        sent = due
        time.sleep(PACE_S)
    producer.flush()


@dataclass(frozen=True, slots=True)
class KafkaLatency:
    """The only one."""

    name: str
    title: str
    per_second: int
    records: int
    records_quick: int

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("p50_ms", "ms, p50"),
        Metric("p99_ms", "ms, p99"),
    )
    layout: ClassVar[Layout] = SIDE_BY_SIDE

    @property
    def contenders(self) -> tuple[str, ...]:
        return (BARE_UDF, *ENGINES)

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        topic, out = new_topic(), new_topic()
        command = [sys.executable, "-m", __spec__.name, contender, topic, out]
        with subprocess.Popen(command) as process:
            try:
                latencies_ms = sorted(self._latencies(process, topic, out, records))
            finally:
                process.kill()
        figures = {
            "p50_ms": latencies_ms[len(latencies_ms) // 2],
            "p99_ms": latencies_ms[len(latencies_ms) * 99 // 100],
        }
        return Outcome(figures, len(latencies_ms), 0 if check else None)

    def _latencies(
        self, process: subprocess.Popen[bytes], topic: str, out: str, records: int
    ) -> Iterator[float]:
        producer = Producer({"bootstrap.servers": address(), "linger.ms": 1})
        reader = _Reader(out)
        reader.start()
        try:
            return self._measured(process, topic, producer, reader, records)
        finally:
            reader.over = True
            reader.join()

    def _measured(
        self,
        process: subprocess.Popen[bytes],
        topic: str,
        producer: Producer,
        reader: _Reader,
        records: int,
    ) -> Iterator[float]:
        # The first result shows that it runs, and then it may get warm.
        while not reader.latencies_ms:
            _paced(producer, topic, 10, 100)
            assert process.poll() is None, "the contender has ended"
        _paced(producer, topic, int(WARM_UP_S * self.per_second), self.per_second)
        begun_ns = time.perf_counter_ns()
        _paced(producer, topic, records, self.per_second)
        until_s = time.monotonic() + PATIENCE_S
        while (came := sum(stamp >= begun_ns for stamp, _ in reader.latencies_ms)) < records:
            assert process.poll() is None, "the contender has ended"
            assert time.monotonic() < until_s, f"{came} of {records} results have come"
            time.sleep(0.05)
        return (latency for stamp, latency in reader.latencies_ms if stamp >= begun_ns)


def main(contender: str, topic: str, out: str) -> None:
    if contender == BARE_UDF:
        loop(topic, out)
    else:
        flow(contender, topic, out)


WORKLOADS = (
    KafkaLatency(
        name="k3-latency",
        title="K3 Kafka: topic, count by key, topic; 10,000/s for 10 s",
        per_second=10_000,
        records=100_000,
        records_quick=5_000,
    ),
)

if __name__ == "__main__":
    main(*sys.argv[1:])
