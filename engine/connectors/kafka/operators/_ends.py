"""`input` and `output`: messages from topics into a flow, and out of it to a topic."""

# The operators have the names that users know them by.
# ruff: noqa: A001

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

import engine.operators as op
from engine.connectors import Delivery
from engine.connectors.kafka import (
    OFFSET_BEGINNING,
    KafkaError,
    KafkaSink,
    KafkaSinkMessage,
    KafkaSource,
    KafkaSourceMessage,
)
from engine.connectors.kafka.operators._errors import OnError, check_on_error
from engine.connectors.kafka.operators._kernels import SplitKernel, ToSinkKernel
from engine.connectors.kafka.operators._types import KafkaOpOut
from engine.dataflow import Dataflow, Stream, operator
from engine.dataflow._operator import new_stream


@operator
def input(  # noqa: PLR0913 - the choices of the source, which all have defaults
    step_id: str,
    flow: Dataflow,
    *,
    brokers: Iterable[str],
    topics: Iterable[str],
    tail: bool = True,
    starting_offset: int | datetime = OFFSET_BEGINNING,
    add_config: Mapping[str, Any] | None = None,
    batch_size: int = 1000,
    ending_offset: int | datetime | None = None,
    on_lost_offset: Literal["fail", "earliest", "latest"] = "fail",
    discovery_interval: timedelta | None = timedelta(minutes=1),
    on_error: OnError = "fail",
) -> KafkaOpOut[
    KafkaSourceMessage[bytes | None, bytes | None], KafkaError[bytes | None, bytes | None]
]:
    """Bring the messages of topics into a flow.

    As `op.input` of a `KafkaSource`, which says more about each argument; what can't be read goes
    to a stream of its own.

    Args:
        step_id: Name of the step.
        flow: The flow that the messages come into.
        brokers: Addresses to begin with, "host:port" each.
        topics: The topics to read. All must exist.
        tail: Whether to wait for new messages at the end of a partition; else it is over there.
        starting_offset: Where to begin in partitions that were never read: `OFFSET_BEGINNING`,
            `OFFSET_END`, an offset, or a time (with a zone).
        add_config: Settings of librdkafka's consumer.
        batch_size: How many messages to take at once, at most.
        ending_offset: Where to stop: before that offset, or before the first message of that time
            or later. None goes on.
        on_lost_offset: What to do when messages that were to be read next are not there any more.
        discovery_interval: How often to look for new partitions; None looks at the start only.
        on_error: What to do with errors if no step reads `errs`: ``"fail"`` ends the run at the
            first, ``"skip"`` goes on without such messages and logs how many.

    Returns:
        Messages, and an error for each message that can't be read: one that is damaged, say.

    Raises:
        TypeError: As `KafkaSource` raises it; while the flow is built.
        ValueError: As `KafkaSource` raises it; while the flow is built.

    >>> from engine.connectors.kafka import operators as kop
    >>> from engine.dataflow import Dataflow
    >>> flow = Dataflow("shop")
    >>> orders = kop.input("orders", flow, brokers=["localhost:9092"], topics=["orders"])
    >>> orders.oks
    Stream(stream_id='shop.orders.split.oks')
    """
    check_on_error(step_id, on_error)
    source = KafkaSource(
        brokers,
        topics,
        tail,
        starting_offset,
        add_config,
        batch_size,
        raise_on_errors=False,
        ending_offset=ending_offset,
        on_lost_offset=on_lost_offset,
        discovery_interval=discovery_interval,
    )
    return _split("split", op.input("source", flow, source), on_error)


@operator(core=True, kernel=lambda step, _workers: SplitKernel(step.params["on_error"]))
def _split(
    step_id: str,
    up: Stream[Any],
    on_error: OnError,  # noqa: ARG001 - the kernel's
) -> KafkaOpOut[
    KafkaSourceMessage[bytes | None, bytes | None], KafkaError[bytes | None, bytes | None]
]:
    return KafkaOpOut(new_stream(step_id, up, "oks"), new_stream(step_id, up, "errs"))


@operator
def output(
    step_id: str,  # noqa: ARG001 - the decorator's
    up: Stream[KafkaSourceMessage[Any, Any] | KafkaSinkMessage[Any, Any]],
    *,
    brokers: Iterable[str],
    topic: str | None,
    add_config: Mapping[str, Any] | None = None,
    delivery: Delivery = "at-least-once",
) -> None:
    """Write messages to a topic.

    As `op.output` to a `KafkaSink`, which says more about each argument. Messages that were read
    are written too, with their key, value and headers.

    Args:
        step_id: Name of the step.
        up: Stream of messages, whose keys and values are bytes, text or None.
        brokers: Addresses to begin with, "host:port" each.
        topic: Where messages go that don't name a topic; None if all of them do. A message that
            was read doesn't: where it was read is not where it goes.
        add_config: Settings of librdkafka's producer.
        delivery: "at-least-once" or "exactly-once".

    Raises:
        TypeError: As `KafkaSink` raises it; while the flow is built.
        ValueError: As `KafkaSink` raises it; while the flow is built.
        UserCodeError: A record is no message; ends the run.

    >>> import engine.operators as op
    >>> from engine.connectors.kafka import KafkaSinkMessage, operators as kop
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSource
    >>> flow = Dataflow("shop")
    >>> s = op.input("in", flow, TestingSource([KafkaSinkMessage("ann", "20")]))
    >>> kop.output("out", s, brokers=["localhost:9092"], topic="sales")
    """
    sink = KafkaSink(brokers, topic, add_config, delivery=delivery)
    op.output("sink", _to_sink("to_sink", up), sink)


@operator(core=True, kernel=lambda _step, _workers: ToSinkKernel())
def _to_sink(step_id: str, up: Stream[Any]) -> Stream[KafkaSinkMessage[Any, Any]]:
    return new_stream(step_id, up)
