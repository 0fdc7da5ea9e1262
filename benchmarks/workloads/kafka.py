"""K1 and K2: messages of a Kafka topic in, and back: consume and count; consume, count, produce.

All contenders use the same broker one after another: the one that ``ENGINE_BENCH_KAFKA=host:port``
names, or else the tests' own (`tests.kafka`), which ends with the command. The input is a topic of
four partitions, filled once for each size, with JSON values of 100 bytes and 1,000 keys.

Everybody reads through librdkafka. A bare loop does what a good user would write: `consume(500)`,
settings that don't stop fetching, reads what it needs of each message. The time goes from the first
message that the user's function sees to the end of the work, connecting left out: of K1 to the last
message, of K2 until the brokers have acknowledged all output.

- K1 takes the length of each value and counts;
- K2 counts each key's messages and writes the count as a message with that key.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from benchmarks.contenders import BARE_UDF, ENGINES, QUIX, family_of, load_engine
from benchmarks.workloads._base import Layout, Metric, Outcome, inputs_out_of_gc

ADDRESS = "ENGINE_BENCH_KAFKA"
"""The environment variable that names the broker."""
PREFIX = "k"
"""How the names of workloads begin that need a broker."""
PARTITIONS = 4
KEYS = 1000
EXACTLY_ONCE = "engine-eo"
_SERIAL = itertools.count()

READING: dict[str, Any] = {
    "group.id": "bench",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "earliest",
    "fetch.queue.backoff.ms": 10,
    "queued.max.messages.kbytes": 65_536,
    "max.partition.fetch.bytes": 8_388_608,
}
WRITING: dict[str, Any] = {
    "enable.idempotence": True,
    "linger.ms": 5,
    "batch.size": 1_000_000,
    "queue.buffering.max.messages": 500_000,
    "queue.buffering.max.kbytes": 65_536,
    "delivery.report.only.error": True,
}


class Seen:
    """What the user's function notes: when the first message came, and the total."""

    def __init__(self) -> None:
        self.started_s = 0.0
        self.ended_s = 0.0
        self.records = 0
        self.total = 0

    def start(self) -> None:
        self.started_s = self.started_s or time.perf_counter()

    def end(self) -> None:
        self.ended_s = time.perf_counter()

    def add(self, lengths: list[int]) -> None:
        self.records += len(lengths)
        self.total += sum(lengths)
        self.end()


@contextlib.contextmanager
def broker(*, wanted: bool) -> Iterator[None]:
    """Have a broker for as long as this lasts, in `ADDRESS`, unless there is one already."""
    if not wanted or os.environ.get(ADDRESS):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="bench-kafka-") as folder:
        tests: Any = importlib.import_module("tests.kafka.broker")
        with tests.Broker(Path(folder), settings=tests.STEADY) as running:
            os.environ[ADDRESS] = running.address
            try:
                yield
            finally:
                del os.environ[ADDRESS]


def address() -> str:
    """Of the broker."""
    return os.environ[ADDRESS]


def new_topic(name: str | None = None) -> str:
    """Make a topic, if it isn't there."""
    name = name or f"out-{os.getpid()}-{time.time_ns()}-{next(_SERIAL)}"
    admin = AdminClient({"bootstrap.servers": address()})
    try:
        admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result()
    except KafkaException as ex:
        if ex.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
    # It takes a moment until there are partitions, and each has somebody to ask.
    while True:
        found = admin.list_topics(name).topics[name].partitions.values()
        if len(found) == PARTITIONS and all(part.leader >= 0 for part in found):
            return name
        time.sleep(0.01)


def filled_topic(records: int) -> str:
    """The input of so many records, which is written if nobody has."""
    name = new_topic(f"in-{records}")
    asks = Consumer({"bootstrap.servers": address(), "group.id": "bench"})
    there = sum(_end(asks, TopicPartition(name, number)) for number in range(PARTITIONS))
    asks.close()
    if there == records:
        return name
    producer = Producer({"bootstrap.servers": address(), **WRITING})
    for number in range(records):
        value = b'{"number":%08d,"text":"%s"}' % (number, b"x" * 72)
        send(producer, name, value, b"key%03d" % (number % KEYS))
    producer.flush()
    return name


def _end(asks: Consumer, spot: TopicPartition) -> int:
    """How many messages a partition has; of a new one nobody may know for a moment."""
    while True:
        with contextlib.suppress(KafkaException):
            return asks.get_watermark_offsets(spot)[1]
        time.sleep(0.1)


def send(producer: Any, topic: str, value: bytes, key: bytes) -> None:
    while True:
        try:
            producer.produce(topic, value, key)
        except BufferError:
            producer.poll(0.01)
        else:
            return


def messages_of(topic: str) -> Iterator[list[Any]]:
    """The bare loop's reading, until the ends of all partitions."""
    consumer = Consumer({"bootstrap.servers": address(), **READING})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    open_ends = PARTITIONS
    while open_ends:
        messages = consumer.consume(500, 0.05)
        open_ends -= sum(1 for message in messages if message.error() is not None)
        yield messages
    consumer.close()


# K1


def count_bare(_contender: str, topic: str, _records: int) -> Seen:
    seen = Seen()

    def length(value: bytes) -> int:
        return len(value)

    for messages in filter(None, messages_of(topic)):
        seen.start()
        seen.add([length(message.value()) for message in messages if message.error() is None])
    return seen


def count_flow(contender: str, topic: str, _records: int) -> Seen:
    engine, seen = load_engine(contender), Seen()

    def length(message: Any) -> int:
        if not seen.started_s:
            seen.start()
        return len(message.value)

    class Total:
        def write_batch(self, items: list[int]) -> None:
            seen.add(items)

    flow = engine.dataflow.Dataflow("benchmark")
    messages = engine.operators.input("in", flow, _source(contender, topic))
    lengths = engine.operators.map("length", messages, length)
    engine.operators.output("out", lengths, engine.sink(engine.sink_part(Total)))
    engine.testing.run_main(flow)
    return seen


def count_quix(_contender: str, topic: str, records: int) -> Seen:
    seen = Seen()
    app = _quix_app()

    def length(value: bytes) -> int:
        seen.start()
        seen.records += 1
        seen.total += len(value)
        return len(value)

    frame = app.dataframe(app.topic(topic, value_deserializer="bytes"))
    frame.apply(length)
    app.run(count=records, timeout=60.0)
    seen.end()
    return seen


def _quix_app() -> Any:
    quix: Any = importlib.import_module("quixstreams")
    return quix.Application(
        broker_address=address(),
        consumer_group=f"bench-{time.time_ns()}",
        auto_offset_reset="earliest",
        loglevel=None,
        state_dir=tempfile.mkdtemp(prefix="bench-quix-"),
    )


def _source(contender: str, topic: str) -> Any:
    kafka = importlib.import_module(f"{family_of(contender)}.connectors.kafka")
    settings = {} if contender.startswith("engine") else {"fetch.queue.backoff.ms": "10"}
    return kafka.KafkaSource([address()], [topic], tail=False, add_config=settings)


# K2


def count_key(count: int | None, _message: Any) -> tuple[int, int]:
    count = (count or 0) + 1
    return count, count


def produce_bare(_contender: str, topic: str, out: str) -> Seen:
    seen = Seen()
    counts: dict[bytes, int] = {}
    producer = Producer({"bootstrap.servers": address(), **WRITING})
    for messages in messages_of(topic):
        if messages:
            seen.start()
        for message in messages:
            if message.error() is not None:
                continue
            key: bytes = message.key()
            counts[key], count = count_key(counts.get(key), message)
            send(producer, out, b"%d" % count, key)
        producer.poll(0)
    producer.flush()
    seen.end()
    return seen


def produce_flow(contender: str, topic: str, out: str) -> Seen:
    family = family_of(contender)
    engine, seen = load_engine(family), Seen()
    kafka = importlib.import_module(f"{family}.connectors.kafka")
    op = engine.operators

    def key_of(message: Any) -> str:
        seen.start()
        key: bytes = message.key
        return key.decode()

    def message_of(item: tuple[str, int]) -> Any:
        return kafka.KafkaSinkMessage(item[0].encode(), b"%d" % item[1])

    flow = engine.dataflow.Dataflow("benchmark")
    keyed = op.key_on("key", op.input("in", flow, _source(contender, topic)), key_of)
    counts = op.stateful_map("count", keyed, count_key)
    options = {"delivery": "exactly-once"} if contender == EXACTLY_ONCE else {}
    sink = kafka.KafkaSink([address()], out, **options)
    op.output("out", op.map("message", counts, message_of), sink)
    with tempfile.TemporaryDirectory(prefix="bench-kafka-") as folder:
        recovery: dict[str, Any] = {}
        if family == "engine":
            recovery["recovery_config"] = engine.new_store(folder)
            recovery["epoch_interval"] = timedelta(seconds=1)
        engine.testing.run_main(flow, **recovery)
    seen.end()
    return seen


def _written(out: str) -> tuple[int, int]:
    """How many messages there are, and a sum of their hashes, by a reader of its own."""
    records = digest = 0
    for messages in messages_of(out):
        for message in messages:
            if message.error() is None:
                records += 1
                digest += hash((message.key(), message.value()))
    return records, digest % 2**64


@dataclass(frozen=True, slots=True)
class Kafka:
    """One of the two."""

    name: str
    title: str
    records: int
    records_quick: int
    contenders: tuple[str, ...]
    layout: Layout

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("records_per_s", "M messages/s", divisor=1e6, digits=3),
    )

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        topic = filled_topic(records)
        with inputs_out_of_gc():
            if self.name == "k1-count":
                seen = _K1.get(contender, count_flow)(contender, topic, records)
                written, digest = seen.records, seen.total
            else:
                out = new_topic()
                seen = (produce_bare if contender == BARE_UDF else produce_flow)(
                    contender, topic, out
                )
                written, digest = _written(out) if check else (records, 0)
        speed = records / (seen.ended_s - seen.started_s)
        return Outcome({"records_per_s": speed}, written, digest if check else None)


_K1: dict[str, Callable[[str, str, int], Seen]] = {BARE_UDF: count_bare, QUIX: count_quix}

WORKLOADS = (
    Kafka(
        name="k1-count",
        title="K1 Kafka: consume, map, count",
        records=1_000_000,
        records_quick=20_000,
        contenders=(BARE_UDF, *ENGINES, QUIX),
        layout=Layout(
            (BARE_UDF, *ENGINES, QUIX),
            (("engine", BARE_UDF), ("engine", "bytewax"), ("engine", QUIX)),
        ),
    ),
    Kafka(
        name="k2-produce",
        title=f"K2 Kafka: consume, count by key ({KEYS:,} keys), produce; epochs of 1 s",
        records=800_000,
        records_quick=20_000,
        contenders=(BARE_UDF, "engine", EXACTLY_ONCE, "bytewax"),
        layout=Layout(
            (BARE_UDF, "engine", EXACTLY_ONCE, "bytewax"),
            (("engine", BARE_UDF), (EXACTLY_ONCE, "engine"), ("engine", "bytewax")),
        ),
    ),
)
