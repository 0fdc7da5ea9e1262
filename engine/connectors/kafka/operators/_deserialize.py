"""`deserialize_key`, `deserialize_value` and `deserialize`: from bytes to values."""

from __future__ import annotations

from typing import Any, TypeVar

from engine.connectors.kafka._messages import KafkaError, KafkaSourceMessage
from engine.connectors.kafka.operators._checks import check_serde
from engine.connectors.kafka.operators._errors import OnError, check_on_error
from engine.connectors.kafka.operators._kernels import DeserializeKernel
from engine.connectors.kafka.operators._types import Deserialize, KafkaOpOut
from engine.dataflow import Operator, Stream, operator
from engine.dataflow._operator import new_stream

K = TypeVar("K")
V = TypeVar("V")
K2 = TypeVar("K2")
V2 = TypeVar("V2")


def _kernel(step: Operator, _workers: int) -> DeserializeKernel:
    params = step.params
    key, value = params.get("key_deserializer"), params.get("val_deserializer")
    if "deserializer" in params:
        key, value = params["deserializer"], None
        if step.name == "deserialize_value":
            key, value = value, key
    return DeserializeKernel(key, value, params["on_error"])


def _outputs(step_id: str, up: Stream[Any]) -> KafkaOpOut[Any, Any]:
    return KafkaOpOut(new_stream(step_id, up, "oks"), new_stream(step_id, up, "errs"))


@operator(core=True, kernel=_kernel)
def deserialize_key(
    step_id: str,
    up: Stream[KafkaSourceMessage[bytes | None, V]],
    deserializer: Deserialize[K2],
    *,
    on_error: OnError = "fail",
) -> KafkaOpOut[KafkaSourceMessage[K2, V], KafkaError[bytes | None, V]]:
    """Make the keys of messages into what their bytes stand for.

    As `deserialize_value`, of the key.

    Args:
        step_id: Name of the step.
        up: Stream of messages.
        deserializer: Called with the key and a `SerializationContext`; gives the new key. A key of
            None is given to it too.
        on_error: What to do with errors if no step reads `errs`: ``"fail"`` ends the run at the
            first, ``"skip"`` leaves such messages out and logs how many.

    Returns:
        Messages with their new keys, and errors with the messages as they were, of code
        `_KEY_DESERIALIZATION`.

    Raises:
        DeserializationError: A key can't be deserialized, and `on_error` and `errs` say nothing of
            it; ends the run.
        ConnectorError: What the deserializer needs can't be had, such as a schema registry that
            doesn't answer; ends the run.

    >>> import engine.operators as op
    >>> from confluent_kafka.serialization import StringDeserializer
    >>> from engine.connectors.kafka import KafkaSourceMessage, operators as kop
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("deserialize_key_example"), []
    >>> s = op.input("in", flow, TestingSource([KafkaSourceMessage(b"ann", b"20")]))
    >>> named = kop.deserialize_key("name", s, StringDeserializer())
    >>> op.output("out", op.map("key", named.oks, lambda message: message.key), TestingSink(out))
    >>> run_main(flow)
    >>> out
    ['ann']
    """
    check_serde(step_id, "deserializer", deserializer)
    check_on_error(step_id, on_error)
    return _outputs(step_id, up)


@operator(core=True, kernel=_kernel)
def deserialize_value(
    step_id: str,
    up: Stream[KafkaSourceMessage[K, bytes | None]],
    deserializer: Deserialize[V2],
    *,
    on_error: OnError = "fail",
) -> KafkaOpOut[KafkaSourceMessage[K, V2], KafkaError[K, bytes | None]]:
    """Make the values of messages into what their bytes stand for.

    Order is kept. Keeps no state. A message that can't be deserialized goes to `errs`, with the
    reason. If no step reads `errs`, `on_error` says what becomes of it; nothing is dropped in
    silence. A failure that isn't the message's fault (a schema registry that doesn't answer) ends
    the run in any case.

    Args:
        step_id: Name of the step.
        up: Stream of messages.
        deserializer: Called with the value and a `SerializationContext`; gives the new value. A
            value of None (in a compacted topic: the key is deleted) is given to it too. One of
            `engine.connectors.kafka.serde` or of confluent-kafka, or a function.
        on_error: What to do with errors if no step reads `errs`: ``"fail"`` ends the run at the
            first, ``"skip"`` leaves such messages out and logs how many.

    Returns:
        Messages with their new values, and errors with the messages as they were, of code
        `_VALUE_DESERIALIZATION`.

    Raises:
        DeserializationError: A value can't be deserialized, and `on_error` and `errs` say nothing
            of it; ends the run.
        ConnectorError: What the deserializer needs can't be had; ends the run.

    >>> import engine.operators as op
    >>> from engine.connectors.kafka import KafkaSourceMessage, operators as kop, serde
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, prices, bad = Dataflow("deserialize_value_example"), [], []
    >>> messages = [KafkaSourceMessage(b"pen", b"2.5"), KafkaSourceMessage(b"cup", b"dear")]
    >>> s = op.input("in", flow, TestingSource(messages))
    >>> parsed = kop.deserialize_value("price", s, serde.JsonDeserializer(float))
    >>> values = op.map("value", parsed.oks, lambda message: message.value)
    >>> op.output("out", values, TestingSink(prices))
    >>> op.output("bad", parsed.errs, TestingSink(bad))
    >>> run_main(flow)
    >>> prices
    [2.5]
    >>> [(error.msg.key, error.err.str()) for error in bad]
    [(b'cup', 'DecodeError: JSON is malformed: invalid character (byte 0)')]
    """
    check_serde(step_id, "deserializer", deserializer)
    check_on_error(step_id, on_error)
    return _outputs(step_id, up)


@operator(core=True, kernel=_kernel)
def deserialize(
    step_id: str,
    up: Stream[KafkaSourceMessage[bytes | None, bytes | None]],
    *,
    key_deserializer: Deserialize[K2],
    val_deserializer: Deserialize[V2],
    on_error: OnError = "fail",
) -> KafkaOpOut[KafkaSourceMessage[K2, V2], KafkaError[bytes | None, bytes | None]]:
    """Make keys and values of messages into what their bytes stand for.

    As `deserialize_value`, of both. If one of them can't be deserialized, the error has the message
    as it was, with neither.

    Args:
        step_id: Name of the step.
        up: Stream of messages.
        key_deserializer: Called with the key and a `SerializationContext`; gives the new key.
        val_deserializer: The same for the value.
        on_error: What to do with errors if no step reads `errs`: ``"fail"`` ends the run at the
            first, ``"skip"`` leaves such messages out and logs how many.

    Returns:
        Messages with their new keys and values, and errors with the messages as they were.

    Raises:
        DeserializationError: A key or a value can't be deserialized, and `on_error` and `errs` say
            nothing of it; ends the run.
        ConnectorError: What a deserializer needs can't be had; ends the run.

    >>> import engine.operators as op
    >>> from confluent_kafka.serialization import StringDeserializer
    >>> from engine.connectors.kafka import KafkaSourceMessage, operators as kop, serde
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("deserialize_example"), []
    >>> s = op.input("in", flow, TestingSource([KafkaSourceMessage(b"ann", b"[1, 2]")]))
    >>> parsed = kop.deserialize(
    ...     "parse",
    ...     s,
    ...     key_deserializer=StringDeserializer(),
    ...     val_deserializer=serde.JsonDeserializer(list[int]),
    ... )
    >>> pairs = op.map("pair", parsed.oks, lambda message: (message.key, message.value))
    >>> op.output("out", pairs, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [('ann', [1, 2])]
    """
    check_serde(step_id, "key_deserializer", key_deserializer)
    check_serde(step_id, "val_deserializer", val_deserializer)
    check_on_error(step_id, on_error)
    return _outputs(step_id, up)
