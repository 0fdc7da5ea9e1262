"""Serializers and deserializers: every type there and back, and what can't be read is named."""

from __future__ import annotations

import builtins
import contextlib
import json
import math
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import fastavro
import msgspec
import pytest
from confluent_kafka.schema_registry import Schema
from confluent_kafka.serialization import (
    Deserializer,
    MessageField,
    SerializationContext,
    SerializationError,
    Serializer,
)
from hypothesis import given
from hypothesis import strategies as st

from engine.connectors.kafka import serde


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Place(TypedDict, total=False):
    city: str
    zip: str


class Point(NamedTuple):
    x: float
    y: float


@dataclass
class Item:
    sku: str
    price: float
    tags: list[str] = field(default_factory=list)


@dataclass
class Order:
    id: int
    items: list[Item]
    note: str | None = None
    paid: bool = False
    raw: bytes = b""
    at: datetime | None = None
    day: date | None = None
    total: Decimal = Decimal(0)
    number: UUID | None = None
    colour: Colour = Colour.RED
    size: Literal["S", "M"] = "S"
    place: Place | None = None
    point: Point | None = None
    by_name: dict[str, Item] = field(default_factory=dict)


@dataclass
class Node:
    n: int = 0
    children: list[Node] = field(default_factory=list)
    by_name: dict[str, Node] | None = None
    pair: tuple[int, Node] | None = None
    either: Node | list[Node] | None = None


texts = st.text(max_size=5)
items = st.builds(Item, texts, st.floats(allow_nan=False, allow_infinity=False), st.lists(texts))
orders = st.builds(
    Order,
    id=st.integers(-(2**63), 2**63 - 1),
    items=st.lists(items, max_size=3),
    note=st.none() | texts,
    paid=st.booleans(),
    raw=st.binary(max_size=9),
    at=st.none() | st.datetimes(timezones=st.just(UTC)),
    day=st.none() | st.dates(),
    total=st.decimals(allow_nan=False, allow_infinity=False),
    number=st.none() | st.uuids(),
    colour=st.sampled_from(Colour),
    size=st.sampled_from(["S", "M"]),
    place=st.none() | st.fixed_dictionaries({"city": texts}, optional={"zip": texts}),
    point=st.none() | st.builds(Point, st.floats(-9, 9), st.floats(-9, 9)),
    by_name=st.dictionaries(texts, items, max_size=2),
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
)

FORMATS: list[Any] = [
    pytest.param(serde.JsonSerializer, serde.JsonDeserializer, id="json"),
    pytest.param(serde.MsgpackSerializer, serde.MsgpackDeserializer, id="msgpack"),
]
CONTEXT = SerializationContext("orders", MessageField.VALUE)


@pytest.mark.parametrize(("serializer", "deserializer"), FORMATS)
@given(order=orders)
def test_a_dataclass_there_and_back(serializer: Any, deserializer: Any, order: Order):
    """All types that a field may have come back as they were."""
    assert deserializer(Order)(serializer()(order)) == order
    assert deserializer(Order, unknown_fields="refuse")(serializer()(order)) == order


@pytest.mark.parametrize(("serializer", "deserializer"), FORMATS)
@given(value=plain)
def test_plain_values_there_and_back(serializer: Any, deserializer: Any, value: Any):
    """Without a type, what JSON has comes back as what Python has for it."""
    assert deserializer()(serializer()(value)) == value


@given(value=plain)
def test_json_is_what_python_itself_reads(value: Any):
    """And what Python writes is read."""
    if value is not None:
        assert json.loads(serde.JsonSerializer()(value) or b"") == value
        assert serde.JsonDeserializer()(json.dumps(value).encode()) == value


def test_missing_fields_take_their_defaults():
    """As when the dataclass is made in Python."""
    assert serde.JsonDeserializer(Order)(b'{"id": 1, "items": []}') == Order(1, [])


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"id": 1, "items": [{"sku": "a", "price": 1}, {"sku": "b", "price": "x"}]}',
         "Expected `float`, got `str` - at `$.items[1].price`"),
        (b'{"id": 1, "items": [{"sku": "a"}]}',
         "Object missing required field `price` - at `$.items[0]`"),
        (b'{"id": 1.5, "items": []}', "Expected `int`, got `float` - at `$.id`"),
        (b'{"id": 1, "items": [], "colour": "no"}', "Invalid enum value 'no' - at `$.colour`"),
        (b'{"id": 1, "items": [], "size": "XL"}', "Invalid enum value 'XL' - at `$.size`"),
        (b'{"id": 1, "items": [], "at": "soon"}', "Invalid RFC3339 encoded datetime - at `$.at`"),
        (b'{"id": 1, "items": [], "raw": "?"}', "Invalid base64 encoded string - at `$.raw`"),
        (b'{"id": 1, "items": [], "number": "7"}', "Invalid UUID - at `$.number`"),
        (b'{"id": 1, "items": null}', "Expected `array`, got `null` - at `$.items`"),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
        (b'{"id": 1', "Input data was truncated"),
        (b"", "Input data was truncated"),
        (b"\x00\x00\x00\x00\x01{}", "JSON is malformed: invalid character (byte 0)"),
        (b'{"id": 1, "items": [], "note": "\xff"}', "UnicodeDecodeError"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_path(raw: bytes, said: str):
    """In confluent-kafka's error, as its own deserializers do."""
    with pytest.raises(SerializationError) as caught:
        serde.JsonDeserializer(Order)(raw, CONTEXT)
    assert said in str(caught.value)


def test_unknown_fields_are_ignored_unless_they_are_refused():
    """Wherever they are: in lists, dicts, tuples, unions and types within themselves."""
    lenient = serde.JsonDeserializer(Node)
    strict = serde.JsonDeserializer(Node, unknown_fields="refuse")
    for raw, path in [
        (b'{"m": 1}', "$.m"),
        (b'{"children": [{}, {"children": [{"m": 1}]}]}', "$.children[1].children[0].m"),
        (b'{"by_name": {"a": {}, "b": {"m": 1}}}', "$.by_name['b'].m"),
        (b'{"pair": [1, {"m": 1}]}', "$.pair[1].m"),
        (b'{"either": {"m": 1}}', "$.either.m"),
        (b'{"either": [{"either": [{"m": 1}]}]}', "$.either[0].either[0].m"),
    ]:
        assert isinstance(lenient(raw), Node)
        with pytest.raises(SerializationError) as caught:
            strict(raw)
        assert f"Object contains unknown field - at `{path}`" in str(caught.value)
    assert strict(b'{"n": 2, "children": [{}], "pair": [1, {}]}') == Node(
        2, [Node()], None, (1, Node())
    )


def test_structs_of_msgspec_have_their_own_say():
    """Their tags are no unknown fields, and their renamed fields are known by their new names."""

    class Cat(msgspec.Struct, tag=True, rename="camel"):
        nine_lives: int = 9

    class Dog(msgspec.Struct, tag=True):
        name: str = ""

    strict = serde.JsonDeserializer(list[Cat], unknown_fields="refuse")
    assert strict(b'[{"type": "Cat", "nineLives": 1}]') == [Cat(1)]
    with pytest.raises(SerializationError, match=r"\$\[0\]\.nine_lives"):
        strict(b'[{"type": "Cat", "nine_lives": 1}]')
    either = serde.JsonDeserializer(list[Cat | Dog], unknown_fields="refuse")
    assert either(b'[{"type": "Dog", "name": "Rex"}, {"type": "Cat"}]') == [Dog("Rex"), Cat()]


def test_types_that_have_no_fields_cost_nothing_more():
    """A list of numbers can have no unknown fields, so it is read once."""
    decode = serde.JsonDeserializer(list[int], unknown_fields="refuse").decode
    assert type(decode) is type(msgspec.json.Decoder().decode)


def test_none_stays_none():
    """A message without a value has none, whatever the type."""
    for one in (
        serde.JsonDeserializer(Order),
        serde.MsgpackDeserializer(Order),
        serde.PlainAvroDeserializer('"string"'),
        serde.JsonSerializer(),
        serde.MsgpackSerializer(),
        serde.PlainAvroSerializer('["null", "string"]'),
    ):
        assert one(None, CONTEXT) is None


def test_keys_can_be_written_in_order():
    """So that equal dicts become the same bytes, and go to the same partition."""
    one, other = {"a": 1, "b": {"c": 1, "d": 2}}, {"b": {"d": 2, "c": 1}, "a": 1}
    for serializer in (serde.JsonSerializer, serde.MsgpackSerializer):
        assert serializer()(one) != serializer()(other)
        assert serializer(sort_keys=True)(one) == serializer(sort_keys=True)(other)


def test_what_cannot_be_written_is_an_error():
    """JSON knows no such key, nobody knows such a type."""
    for value in ({(1, 2): 3}, object()):
        with pytest.raises(SerializationError, match="TypeError"):
            serde.JsonSerializer()(value, CONTEXT)
    with pytest.raises(SerializationError, match="OverflowError"):
        serde.MsgpackSerializer()(2**64)


def test_not_a_number_becomes_null():
    """JSON has no NaN; the docstring says so."""
    assert serde.JsonSerializer()([math.nan, math.inf]) == b"[null,null]"


def test_what_is_no_type_is_refused_at_once():
    """Not with the first message."""
    for deserializer in (serde.JsonDeserializer, serde.MsgpackDeserializer):
        with pytest.raises(TypeError):
            deserializer(Order | Item)
        with pytest.raises(ValueError, match="`unknown_fields` must be 'ignore' or 'refuse'"):
            deserializer(Order, unknown_fields="drop")


def test_they_are_confluent_kafkas():
    """So they can be used wherever its own are."""
    assert isinstance(serde.JsonDeserializer(), Deserializer)
    assert isinstance(serde.PlainAvroDeserializer('"int"'), Deserializer)
    assert isinstance(serde.JsonSerializer(), Serializer)


@pytest.mark.parametrize(
    "deserializer",
    [
        serde.JsonDeserializer(Order),
        serde.MsgpackDeserializer(Order),
        serde.MsgpackDeserializer(),
        serde.PlainAvroDeserializer(
            '{"type": "record", "name": "r", "fields": [{"name": "m", "type": {"type": "map", '
            '"values": ["null", "string", {"type": "array", "items": "bytes"}]}}]}'
        ),
    ],
    ids=["json", "msgpack", "msgpack-plain", "avro"],
)
@given(raw=st.binary(max_size=60))
def test_any_bytes_are_a_value_or_an_error(deserializer: Any, raw: bytes):
    """Nothing else is raised, and nothing goes on for ever."""
    with contextlib.suppress(SerializationError):
        deserializer(raw, CONTEXT)


def test_sizes_that_a_message_only_claims_are_not_believed():
    """Four thousand million items in five bytes are an error at once."""
    for raw in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        with pytest.raises(SerializationError, match="truncated"):
            serde.MsgpackDeserializer()(raw)
    strings = serde.PlainAvroDeserializer('{"type": "array", "items": "string"}')
    for raw in (
        b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x02\xfe\xff\xff\xff\xff\xff\xff\xff\x7f",
    ):
        with pytest.raises(SerializationError):
            strings(raw)
    with pytest.raises(SerializationError, match="RecursionError"):
        serde.JsonDeserializer()(b"[" * 1_000_000)


# Avro

USER = {
    "type": "record",
    "name": "User",
    "fields": [{"name": "name", "type": "string"}, {"name": "age", "type": ["null", "int"]}],
}


@pytest.mark.parametrize(
    "schema",
    [USER, json.dumps(USER), Schema(json.dumps(USER), "AVRO")],
    ids=["dict", "text", "Schema"],
)
@given(name=texts, age=st.none() | st.integers(-(2**31), 2**31 - 1))
def test_avro_there_and_back(schema: Any, name: str, age: int | None):
    """By a schema in any of its three forms, and fastavro itself writes the same."""
    user = {"name": name, "age": age}
    raw = serde.PlainAvroSerializer(schema)(user)
    assert raw is not None
    assert serde.PlainAvroDeserializer(schema)(raw) == user


def test_avro_schemas_may_refer_to_others():
    """Which are given by name, and stay as they were."""
    named: dict[str, Any] = {}
    fastavro.parse_schema(USER, named_schemas=named)
    before = dict(named)
    team = '{"type": "record", "name": "Team", "fields": [{"name": "lead", "type": "User"}]}'
    value = {"lead": {"name": "ann", "age": 40}}
    raw = serde.PlainAvroSerializer(team, named)(value)
    assert serde.PlainAvroDeserializer(team, named)(raw) == value
    assert named == before


def test_avro_of_another_schema_is_an_error():
    """Too few bytes, too many, or with the schema registry's framing, which is named."""
    users = serde.PlainAvroDeserializer(USER)
    raw = serde.PlainAvroSerializer(USER)({"name": "ann", "age": 40}) or b""
    with pytest.raises(SerializationError, match="end too early, or are of another schema"):
        users(raw[:-1])
    with pytest.raises(SerializationError, match="2 of 8 bytes are left over"):
        users(raw + b"\0\0")
    with pytest.raises(SerializationError, match=r"with schema 258, which `AvroDeserializer`"):
        users(b"\0\0\0\1\2" + raw)
    with pytest.raises(SerializationError):
        serde.PlainAvroSerializer(USER)({"name": "ann", "age": "old"})


def test_without_fastavro_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    """It is needed only by those who use it."""
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "fastavro":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    for kind in (serde.PlainAvroDeserializer, serde.PlainAvroSerializer):
        with pytest.raises(ImportError, match=rf"`{kind.__name__}` needs fastavro: .*\[avro\]"):
            kind('"int"')


def test_libraries_are_loaded_when_they_are_used():
    """Importing the modules loads neither Avro, nor msgspec, nor the schema registry."""
    code = (
        "import sys, engine.connectors.kafka.operators, engine.connectors.kafka.serde\n"
        "slow = {'fastavro', 'msgspec', 'confluent_kafka.schema_registry', 'google.protobuf'}\n"
        "print(*(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
