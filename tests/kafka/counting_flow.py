"""The flow of the drills on Kafka: counts the messages of each key, and says which ones they were.

What it reads and writes, and how slowly, comes from the environment, so that the command line can
run it as it is. The value of each message that it writes is "COUNT PARTITION OFFSET": the
how-many-th of its key it was, and where the message stood that was counted.
"""

from __future__ import annotations

import os
import time
from typing import Any

import engine.operators as op
from engine.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from engine.dataflow import Dataflow

BROKERS = [os.environ["COUNTING_BROKER"]]
PAUSE_S = float(os.environ["COUNTING_PAUSE_S"])
Counted = tuple[int, int, int]


def slowly(batch: list[Any]) -> list[Any]:
    time.sleep(PAUSE_S)
    return batch


def key_of(message: KafkaSourceMessage[bytes, bytes]) -> str:
    return message.key.decode()


def counted(count: int | None, message: KafkaSourceMessage[bytes, bytes]) -> tuple[int, Counted]:
    count = (count or 0) + 1
    assert message.partition is not None
    assert message.offset is not None
    return count, (count, message.partition, message.offset)


def told(pair: tuple[str, Counted]) -> KafkaSinkMessage[str, str]:
    return KafkaSinkMessage(pair[0], " ".join(map(str, pair[1])))


source = KafkaSource(
    BROKERS, [os.environ["COUNTING_SOURCE"]], tail=bool(os.environ["COUNTING_TAIL"]), batch_size=25
)
sink = KafkaSink(BROKERS, os.environ["COUNTING_TARGET"], delivery=os.environ["COUNTING_DELIVERY"])

flow = Dataflow("counting")
messages = op.input("in", flow, source)
paced = op.flat_map_batch("pace", messages, slowly)
keyed = op.key_on("key", paced, key_of)
counts = op.stateful_map("count", keyed, counted)
op.output("out", op.map("message", counts, told), sink)
