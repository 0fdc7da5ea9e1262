"""`serialize_key`, `serialize_value` and `serialize`: from values to bytes."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar

from engine.connectors.kafka._messages import KafkaSinkMessage, KafkaSourceMessage
from engine.connectors.kafka.operators._checks import check_serde, check_topic
from engine.connectors.kafka.operators._kernels import SerializeKernel
from engine.connectors.kafka.operators._types import Serialize
from engine.dataflow import Operator, Stream, operator
from engine.dataflow._operator import new_stream

K = TypeVar("K")
V = TypeVar("V")

Message: TypeAlias = KafkaSourceMessage[K, V] | KafkaSinkMessage[K, V]
Bytes: TypeAlias = bytes | str | None


def _kernel(step: Operator, _workers: int) -> SerializeKernel:
    params = step.params
    key, value = params.get("key_serializer"), params.get("val_serializer")
    if "serializer" in params:
        key, value = params["serializer"], None
        if step.name == "serialize_value":
            key, value = value, key
    return SerializeKernel(key, value, params["topic"])


@operator(core=True, kernel=_kernel)
def serialize_key(
    step_id: str,
    up: Stream[Message[Any, V]],
    serializer: Serialize,
    *,
    topic: str | None = None,
) -> Stream[KafkaSinkMessage[Bytes, V]]:
    """Make bytes of the keys of messages.

    As `serialize_value`, of the key. All messages of a key should have the same bytes, as these
    decide on the partition: see `JsonSerializer(sort_keys=True)`.

    Args:
        step_id: Name of the step.
        up: Stream of messages, to be written or read ones.
        serializer: Called with the key and a `SerializationContext`; gives bytes, or None for none.
        topic: The topic that they will go to, for serializers that ask: those of the schema
            registry. A message that names its own topic goes by that.

    Returns:
        Stream of messages to write.

    Raises:
        UserCodeError: The serializer gave something else than bytes, or a record is no message;
            ends the run.
        ConnectorError: What the serializer needs can't be had, such as a schema registry that
            doesn't answer; ends the run, whatever is said about errors.

    >>> import engine.operators as op
    >>> from confluent_kafka.serialization import StringSerializer
    >>> from engine.connectors.kafka import KafkaSinkMessage, operators as kop
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("serialize_key_example"), []
    >>> s = op.input("in", flow, TestingSource([KafkaSinkMessage("ann", b"20")]))
    >>> s = kop.serialize_key("name", s, StringSerializer())
    >>> op.output("out", op.map("key", s, lambda message: message.key), TestingSink(out))
    >>> run_main(flow)
    >>> out
    [b'ann']
    """
    check_serde(step_id, "serializer", serializer)
    check_topic(step_id, topic)
    return new_stream(step_id, up)


@operator(core=True, kernel=_kernel)
def serialize_value(
    step_id: str,
    up: Stream[Message[K, Any]],
    serializer: Serialize,
    *,
    topic: str | None = None,
) -> Stream[KafkaSinkMessage[K, Bytes]]:
    """Make bytes of the values of messages.

    Order is kept. Keeps no state. What a serializer raises ends the run. It may add headers to
    those in its context: the message that goes on has them.

    Args:
        step_id: Name of the step.
        up: Stream of messages, to be written or read ones.
        serializer: Called with the value and a `SerializationContext`; gives bytes, or None (in a
            compacted topic: delete the key). A value of None is given to it too. One of
            `engine.connectors.kafka.serde` or of confluent-kafka, or a function.
        topic: The topic that they will go to, for serializers that ask: those of the schema
            registry. A message that names its own topic goes by that.

    Returns:
        Stream of messages to write.

    Raises:
        UserCodeError: The serializer gave something else than bytes, or a record is no message;
            ends the run.
        ConnectorError: What the serializer needs can't be had, such as a schema registry that
            doesn't answer; ends the run, whatever is said about errors.

    >>> import engine.operators as op
    >>> from engine.connectors.kafka import KafkaSinkMessage, operators as kop, serde
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("serialize_value_example"), []
    >>> s = op.input("in", flow, TestingSource([KafkaSinkMessage(b"ann", {"spent": 20})]))
    >>> s = kop.serialize_value("json", s, serde.JsonSerializer())
    >>> op.output("out", op.map("value", s, lambda message: message.value), TestingSink(out))
    >>> run_main(flow)
    >>> out
    [b'{"spent":20}']
    """
    check_serde(step_id, "serializer", serializer)
    check_topic(step_id, topic)
    return new_stream(step_id, up)


@operator(core=True, kernel=_kernel)
def serialize(
    step_id: str,
    up: Stream[Message[Any, Any]],
    *,
    key_serializer: Serialize,
    val_serializer: Serialize,
    topic: str | None = None,
) -> Stream[KafkaSinkMessage[Bytes, Bytes]]:
    """Make bytes of the keys and values of messages.

    As `serialize_key` and `serialize_value` in one.

    Args:
        step_id: Name of the step.
        up: Stream of messages, to be written or read ones.
        key_serializer: Called with the key and a `SerializationContext`; gives bytes or None.
        val_serializer: The same for the value.
        topic: The topic that they will go to, for serializers that ask.

    Returns:
        Stream of messages to write.

    Raises:
        UserCodeError: A serializer gave something else than bytes, or a record is no message; ends
            the run.
        ConnectorError: What a serializer needs can't be had; ends the run likewise.

    >>> import engine.operators as op
    >>> from confluent_kafka.serialization import StringSerializer
    >>> from engine.connectors.kafka import KafkaSinkMessage, operators as kop, serde
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("serialize_example"), []
    >>> s = op.input("in", flow, TestingSource([KafkaSinkMessage("ann", [1, 2])]))
    >>> s = kop.serialize(
    ...     "bytes", s, key_serializer=StringSerializer(), val_serializer=serde.JsonSerializer()
    ... )
    >>> op.output("out", op.map("pair", s, lambda m: (m.key, m.value)), TestingSink(out))
    >>> run_main(flow)
    >>> out
    [(b'ann', b'[1,2]')]
    """
    check_serde(step_id, "key_serializer", key_serializer)
    check_serde(step_id, "val_serializer", val_serializer)
    check_topic(step_id, topic)
    return new_stream(step_id, up)
