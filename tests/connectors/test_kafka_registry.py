"""The schema registry's serializers in the operators: Avro, JSON Schema, Protobuf, and bad frames.

The registry is the one that confluent-kafka has in memory, for tests.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka.schema_registry import (
    AsyncSchemaRegistryClient,
    SchemaRegistryClient,
    header_schema_id_serializer,
)
from confluent_kafka.schema_registry.avro import (
    AsyncAvroDeserializer,
    AsyncAvroSerializer,
    AvroDeserializer,
    AvroSerializer,
)
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import engine.operators as op
from engine.connectors.kafka import KafkaSinkMessage, KafkaSourceMessage
from engine.connectors.kafka import operators as kop
from engine.dataflow import Dataflow
from engine.errors import ConnectorError, EngineRuntimeError
from engine.testing import TestingSink, TestingSource, run_main
from tests.connectors.kafka_flows import message, split, through

AVRO = json.dumps(
    {
        "type": "record",
        "name": "Order",
        "fields": [{"name": "sku", "type": "string"}, {"name": "n", "type": "int"}],
    }
)
JSON_SCHEMA = json.dumps(
    {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Order",
        "type": "object",
        "properties": {"sku": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["sku", "n"],
    }
)
_numbers = itertools.count()


def _order_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="order.proto", package="shop", syntax="proto3")
    order = file.message_type.add(name="Order")
    kind = descriptor_pb2.FieldDescriptorProto
    for number, (name, of) in enumerate([("sku", kind.TYPE_STRING), ("n", kind.TYPE_INT32)], 1):
        order.field.add(name=name, number=number, type=of, label=kind.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))


Order = _order_class()


@dataclass
class Format:
    """One of the registry's formats: how to make its ends, a good value and one that isn't."""

    serializer: Callable[[Any], Any]
    deserializer: Callable[[Any], Any]
    value: Any
    wrong: Any


FORMATS = {
    "avro": Format(
        lambda client: AvroSerializer(client, AVRO),
        AvroDeserializer,
        {"sku": "pen", "n": 3},
        {"sku": "pen"},
    ),
    "json": Format(
        lambda client: JSONSerializer(JSON_SCHEMA, client),
        lambda client: JSONDeserializer(JSON_SCHEMA, schema_registry_client=client),
        {"sku": "pen", "n": 3},
        {"sku": "pen", "n": "three"},
    ),
    "protobuf": Format(
        lambda client: ProtobufSerializer(Order, client, {"use.deprecated.format": False}),
        lambda client: ProtobufDeserializer(
            Order, {"use.deprecated.format": False}, schema_registry_client=client
        ),
        Order(sku="pen", n=3),
        {"sku": "pen"},
    ),
}


@pytest.fixture
def client() -> Any:
    """A registry of its own for each test."""
    return SchemaRegistryClient.new_client({"url": f"mock://test-{next(_numbers)}"})


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> Format:
    return FORMATS[request.param]


def written(form: Format, client: Any, values: list[Any]) -> list[KafkaSourceMessage[Any, Any]]:
    """Messages as they come back from the topic that the values were written to."""
    out = through(
        [KafkaSinkMessage(b"k", value) for value in values],
        lambda s: kop.serialize_value("write", s, form.serializer(client), topic="orders"),
    )
    return [
        KafkaSourceMessage(m.key, m.value, "orders", m.headers, None, offset, 0)
        for offset, m in enumerate(out)
    ]


def test_there_and_back(form: Format, client: Any):
    """Values, and one that deletes its key, in the registry's framing."""
    read = written(form, client, [form.value, None])
    assert read[0].value[:5] == b"\0\0\0\0\1"
    oks, errs = split(read, lambda s: kop.deserialize_value("p", s, form.deserializer(client)))
    assert errs == []
    assert [m.value for m in oks] == [form.value, None]


def test_what_does_not_fit_the_schema_is_not_written(form: Format, client: Any):
    """The run ends at the step, with the record."""
    with pytest.raises(EngineRuntimeError) as caught:
        written(form, client, [form.wrong])
    assert caught.value.step_id == "flow.write"
    assert caught.value.record == KafkaSinkMessage(b"k", form.wrong)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: b"\0\0",
        lambda raw: raw[5:],
        lambda raw: b"\1" + raw[1:],
        lambda raw: raw[:4] + b"\x63" + raw[5:],
        lambda raw: raw[:-1],
    ],
    ids=["empty", "short", "no frame", "no magic byte", "unknown schema", "cut off"],
)
def test_damaged_messages_go_aside(form: Format, client: Any, damage: Callable[[bytes], bytes]):
    """Each with its reason, while those before and after it are read."""
    good = written(form, client, [form.value])[0]
    read = [good, good.with_value(damage(good.value)), good]
    oks, errs = split(read, lambda s: kop.deserialize_value("p", s, form.deserializer(client)))
    assert [m.value for m in oks] == [form.value] * 2
    assert [e.msg for e in errs] == [read[1]]
    assert errs[0].err.str()


def test_without_a_topic_the_error_says_what_is_missing(client: Any):
    """Subjects are named after topics, which a message to write need not have."""
    with pytest.raises(EngineRuntimeError) as caught:
        through(
            [KafkaSinkMessage(b"k", {"sku": "pen", "n": 3})],
            lambda s: kop.serialize_value("write", s, AvroSerializer(client, AVRO)),
        )
    [note] = caught.value.__cause__.__notes__  # type: ignore[union-attr]
    assert note.endswith("give the step `topic=`")


def test_schemas_may_be_named_in_headers(client: Any):
    """The serializer adds one to the message's own, and the deserializer looks there."""
    write = AvroSerializer(client, AVRO, conf={"schema.id.serializer": header_schema_id_serializer})
    [out] = through(
        [KafkaSinkMessage(b"k", {"sku": "pencil", "n": 3}, headers=[("h", b"1")])],
        lambda s: kop.serialize_value("write", s, write, topic="orders"),
    )
    assert [name for name, _ in out.headers] == ["h", "__value_schema_id"]
    read = message(out.value, headers=out.headers)
    oks, errs = split([read], lambda s: kop.deserialize_value("p", s, AvroDeserializer(client)))
    assert errs == []
    assert oks[0].value == {"sku": "pencil", "n": 3}


@pytest.mark.parametrize("status", [401, 429, 503])
def test_a_registry_that_does_not_help_ends_the_run(client: Any, status: int, monkeypatch: Any):
    """Even where errors are skipped: it would be all messages."""

    def refuse(*_given: object, **_more: object) -> None:
        raise SchemaRegistryError(status, status * 100, "not now")

    [read] = written(FORMATS["avro"], client, [{"sku": "pen", "n": 3}])
    monkeypatch.setattr(type(client), "get_schema", refuse)
    flow = Dataflow("flow")
    s = op.input("in", flow, TestingSource([read]))
    made = kop.deserialize_value("p", s, AvroDeserializer(client), on_error="skip")
    op.output("out", made.oks, TestingSink([]))
    with pytest.raises(
        EngineRuntimeError, match="can't be had: SchemaRegistryError: not now"
    ) as ex:
        run_main(flow)
    assert isinstance(ex.value.__cause__, ConnectorError)


def test_a_registry_that_is_not_there_ends_the_run():
    """A port at which nobody listens."""
    gone = SchemaRegistryClient({"url": "http://127.0.0.1:1", "max.retries": 0, "timeout": 1})
    flow = Dataflow("flow")
    s = op.input("in", flow, TestingSource([message(b"\0\0\0\0\1\6pen\6")]))
    made = kop.deserialize_value("p", s, AvroDeserializer(gone))
    op.output("out", made.oks, TestingSink([]))
    op.output("errs", made.errs, TestingSink([]))
    with pytest.raises(EngineRuntimeError) as caught:
        run_main(flow)
    assert isinstance(caught.value.__cause__, ConnectorError)


@pytest.mark.parametrize("status", [401, 404, 409, 503])
def test_a_registry_that_refuses_a_serializer_ends_the_run(
    client: Any, status: int, monkeypatch: Any
):
    """What it says is about the schema: it would be all messages that are left out."""

    def refuse(*_given: object, **_more: object) -> None:
        raise SchemaRegistryError(status, status * 100, "not now")

    monkeypatch.setattr(type(client), "register_schema_full_response", refuse)
    monkeypatch.setattr(type(client), "register_schema", refuse)
    with pytest.raises(EngineRuntimeError, match="serialize the value of a message to topic") as ex:
        skipping_writers(AvroSerializer(client, AVRO))
    assert isinstance(ex.value.__cause__, ConnectorError)


def test_a_registry_that_is_not_there_ends_a_run_that_writes():
    """Though the flow leaves out what can't be serialized, and one message is such."""
    gone = SchemaRegistryClient({"url": "http://127.0.0.1:1", "max.retries": 0, "timeout": 1})
    with pytest.raises(EngineRuntimeError, match="serialize the value of a message to topic") as ex:
        skipping_writers(AvroSerializer(gone, AVRO))
    assert isinstance(ex.value.__cause__, ConnectorError)


def test_a_value_that_does_not_fit_is_left_out(client: Any):
    """That is the message's fault alone."""
    assert len(skipping_writers(AvroSerializer(client, AVRO))) == 1


def skipping_writers(serializer: Any) -> list[Any]:
    """What becomes of a good message and a bad one in a flow that skips."""
    flow, out = Dataflow("flow", on_error="skip"), []
    messages = [KafkaSinkMessage(b"k", v) for v in ({"sku": 7}, {"sku": "pen", "n": 3})]
    s = op.input("in", flow, TestingSource(messages))
    op.output("out", kop.serialize_value("w", s, serializer, topic="t"), TestingSink(out))
    run_main(flow)
    return out


@pytest.mark.parametrize("kind", [AsyncAvroDeserializer, AsyncAvroSerializer])
def test_those_that_must_be_awaited_are_refused(kind: Any):
    """They would give coroutines; the message names what to use."""
    registry = AsyncSchemaRegistryClient.new_client({"url": "mock://async"})
    given = asyncio.run(kind(registry, AVRO))
    s = op.input("in", Dataflow("flow"), TestingSource([]))
    name = kind.__name__
    with pytest.raises(TypeError, match=f"`{name}`, which must be awaited: use `{name[5:]}`"):
        kop.deserialize_value("p", s, given)
