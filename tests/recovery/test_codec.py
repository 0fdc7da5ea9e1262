"""States and keys come back from bytes as they went in."""

from __future__ import annotations

import enum
import math
import pickle
import threading
from collections import Counter, OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import UserCodeError
from engine.keys import KEY_GROUPS, decode_key, encode_key, key_group, owner
from engine.recovery._blame import decode_error, encode_error
from engine.recovery._codec import Codec, PickleRefusedError

Point = namedtuple("Point", "x y")  # noqa: PYI024 - untyped on purpose


class Color(enum.IntEnum):
    RED = 1


class Name(str):
    __slots__ = ()


@dataclass
class Plain:
    items: list[Any] = field(default_factory=list)


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: Any) -> None:
        self.a = a

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slotted) and self.a == other.a

    def __hash__(self) -> int:
        return 0


def same(a: Any, b: Any) -> bool:
    """Equal with equal types all the way down; nan is nan and -0.0 is not 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (
            a == b and math.copysign(1, a) == math.copysign(1, b)
        )
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, Decimal):
        return str(a) == str(b)
    if isinstance(a, datetime | time):
        zones = [x.tzinfo for x in (a, b)]
        return (
            a.replace(tzinfo=None) == b.replace(tzinfo=None)
            and a.fold == b.fold
            and type(zones[0]) is type(zones[1])
            and zones[0] == zones[1]
        )
    if isinstance(a, dict):
        return same([*a.items()], [*b.items()])
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, set | frozenset):
        return sorted(map(repr, a)) == sorted(map(repr, b))
    return bool(a == b)


texts = st.text(st.characters(exclude_categories=()))
zones = st.sampled_from(
    [
        UTC,
        timezone(timedelta(hours=2)),
        timezone(timedelta(seconds=-61), "odd"),
        ZoneInfo("Europe/Berlin"),
    ]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | texts
    | st.binary()
)
hashables = (
    scalars
    | st.complex_numbers()
    | st.dates()
    | st.times(timezones=st.none() | st.just(UTC))
    | st.datetimes(timezones=st.none() | zones)
    | st.timedeltas()
    | st.decimals()
    | st.uuids()
    | st.just(range(1, 10, 2))
)
# Decimal("sNaN") can't be hashed.
keys = hashables.filter(lambda v: not (isinstance(v, Decimal) and v.is_snan()))
values = st.recursive(
    hashables,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys | st.tuples(keys, keys), inner)
        | st.sets(keys)
        | st.frozensets(keys)
    ),
    max_leaves=8,
)


@given(values)
def test_a_row_comes_back_as_it_went_in(value: Any) -> None:
    """Any nesting of standard types, with and without pickle."""
    for codec in (Codec(), Codec(allow_pickle=False)):
        assert same(codec.decode_row(codec.encode_row(value)), value)


@given(st.lists(values, max_size=5))
def test_a_column_comes_back_as_it_went_in(column: list[Any]) -> None:
    """Decoded at once, and split into rows."""
    for codec in (Codec(), Codec(allow_pickle=False)):
        encoded = codec.encode_column(column)
        assert same(codec.decode_column(encoded), column)
        assert same([codec.decode_row(row) for row in codec.column_rows(encoded)], column)


@given(values)
def test_standard_types_are_not_pickled(value: Any) -> None:
    """A store of standard types can be read without pickle."""
    row = Codec().encode_row(value)
    assert same(Codec(allow_pickle=False).decode_row(row), value)


OWN = [
    bytearray(b"a"),
    Point(1, 2),
    Color.RED,
    Name("n"),
    Plain([1, Plain()]),
    Slotted(3),
    defaultdict(int, {"a": 1}),
    Counter("aab"),
    OrderedDict([("b", 1), ("a", 2)]),
    (1, Point(1, 2)),
    {"a": Color.RED},
    [Name("n")],
    {Color.RED: 1},
    UUID,
]


@pytest.mark.parametrize("value", OWN, ids=lambda value: type(value).__name__)
def test_a_users_own_class_comes_back_as_itself(value: Any) -> None:
    """Subclasses of builtins too."""
    codec = Codec()
    back = codec.decode_row(codec.encode_row(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("value", OWN, ids=lambda value: type(value).__name__)
def test_without_pickle_a_users_own_class_is_refused_both_ways(value: Any) -> None:
    """Neither written nor read."""
    strict = Codec(allow_pickle=False)
    with pytest.raises(TypeError):
        strict.encode_row(value)
    with pytest.raises(TypeError):
        strict.encode_column([value])
    with pytest.raises(PickleRefusedError):
        strict.decode_row(Codec().encode_row(value))
    with pytest.raises(PickleRefusedError):
        strict.decode_column(Codec().encode_column([value]))


def test_a_planted_pickle_does_not_run_without_pickle() -> None:
    """Reading it would run what it says."""
    ran: list[int] = []

    class Planted:
        def __reduce__(self) -> Any:
            return (ran.append, (1,))

    with pytest.raises(PickleRefusedError):
        Codec(allow_pickle=False).decode_row(b"p" + pickle.dumps(print))
    assert ran == []


def test_one_list_in_two_places_stays_one() -> None:
    """What is changed through one reference shows through the other, as before."""
    shared: list[int] = []
    codec = Codec()
    back = codec.decode_row(codec.encode_row({"current": shared, "all": [shared, (shared,)]}))
    assert back["current"] is back["all"][0] is back["all"][1][0]
    with pytest.raises(TypeError, match="two places"):
        Codec(allow_pickle=False).encode_row([shared, shared])


def test_equal_small_tuples_may_be_shared() -> None:
    """They can't change, so it makes no difference."""
    pair = (1, "a")
    row = Codec(allow_pickle=False).encode_row([pair, pair, [pair], (), ()])
    assert Codec().decode_row(row) == [pair, pair, [pair], (), ()]


def test_a_list_in_itself_comes_back() -> None:
    """By pickle."""
    loop: list[Any] = []
    loop.append(loop)
    back = Codec().decode_row(Codec().encode_row(loop))
    assert back[0] is back


def test_deep_nesting_comes_back_or_is_an_error() -> None:
    """Never a crash, and the codec works on."""
    for wrap in (lambda v: [v], lambda v: (v,), lambda v: {"a": v}):
        for depth in (90, 300, 600, 100_000):
            value: Any = 1
            for _ in range(depth):
                value = wrap(value)
            codec = Codec()
            try:
                row = codec.encode_row(value)
            except RecursionError:
                assert depth > 300
            else:
                value = codec.decode_row(row)
                for _ in range(depth):
                    (value,) = value.values() if isinstance(value, dict) else value
                assert value == 1
            assert codec.decode_row(codec.encode_row((1, (2,)))) == (1, (2,))


def test_a_codec_works_on_after_an_error() -> None:
    """Nothing of the refused state is left in its buffers."""
    codec = Codec(allow_pickle=False)
    for bad in ((1, "a" * 100, (object(),)), {"a": 1, "b": [object()]}, [(((object(),),),)]):
        with pytest.raises(TypeError):
            codec.encode_row(bad)
        assert codec.decode_row(codec.encode_row((1, "\ud800"))) == (1, "\ud800")
        assert codec.decode_row(codec.encode_row((2**70, "b"))) == (2**70, "b")


@pytest.mark.parametrize(
    "row", [b"x", b"?abc", b"m\xc1", b"t\x93\x01", b"m\xc7\x01\x63\x00", b"p\x80"]
)
def test_bytes_that_are_no_row_are_an_error(row: bytes) -> None:
    """Unknown tags, cut-off and unknown msgpack, cut-off pickle."""
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever msgpack and pickle raise
        Codec().decode_row(row)


class _Holder:
    def __init__(self) -> None:
        self.name = "h"
        self.parts = {"lock": threading.Lock()}


@pytest.mark.parametrize(
    ("value", "where", "culprit"),
    [
        (threading.Lock(), "state", "_thread.lock"),
        ({"a": [1, threading.Lock()]}, "state['a'][1]", "_thread.lock"),
        (Slotted(threading.Lock()), "state.a", "_thread.lock"),
        (Plain([_Holder()]), "state.items[0].parts['lock']", "_thread.lock"),
        ((1, lambda: 1), "state[1]", "function"),
    ],
)
def test_an_encode_error_names_the_way_to_the_culprit(value: Any, where: str, culprit: str) -> None:
    """Step, key and the attribute."""
    error = encode_error(Codec().encode_row, value, "flow.count", "k1")
    assert error is not None
    assert (error.step_id, error.key, error.where) == ("flow.count", "k1", where)
    assert (
        f"step 'flow.count', key 'k1': the state can't be written, because {where} is a `{culprit}`"
        in str(error)
    )


def test_without_pickle_the_error_names_the_class() -> None:
    """And where it is."""
    error = encode_error(Codec(allow_pickle=False).encode_row, {"p": Plain()}, "s", 1)
    assert error is not None
    assert error.where == "state['p']"
    assert "Plain" in str(error)


def test_a_class_that_has_moved_is_named() -> None:
    """By its old path."""
    row = Codec().encode_row(Plain())
    moved = row.replace(b"Plain", b"Plane")
    with pytest.raises(AttributeError) as caught:
        Codec().decode_row(moved)
    error = decode_error(moved, caught.value, "flow.count", "k1")
    assert error.class_path == f"{__name__}.Plane"
    assert "can't be imported any more" in str(error)
    gone = row.replace(b"test_codec", b"test_c0dec")
    with pytest.raises(ModuleNotFoundError) as caught_too:
        Codec().decode_row(gone)
    assert "test_c0dec.Plain" in str(decode_error(gone, caught_too.value, "s", None))


key_values = st.recursive(
    texts | st.binary() | st.integers(), lambda inner: st.lists(inner).map(tuple), max_leaves=5
)


@given(key_values, key_values)
def test_keys_come_back_and_differ(a: Any, b: Any) -> None:
    """Equal bytes mean equal keys of equal types."""
    assert same(decode_key(encode_key(a)), a)
    assert (encode_key(a) == encode_key(b)) == same(a, b)


@given(key_values, st.integers(1, 300))
def test_every_key_has_one_owner(key: Any, workers: int) -> None:
    """A worker of those that are there."""
    assert 0 <= key_group(key) < KEY_GROUPS
    assert 0 <= owner(key_group(key), workers) < workers


@pytest.mark.parametrize("key", [True, None, 1.0, [1], (1, None)])
def test_what_is_no_key_is_refused(key: Any) -> None:
    """`True` would be found as 1."""
    with pytest.raises(UserCodeError, match="a key must be"):
        encode_key(key)


def test_dates_and_decimals_keep_their_form() -> None:
    """Trailing zeros, folds and named offsets."""
    codec = Codec(allow_pickle=False)
    for value in (
        Decimal("1.00"),
        Decimal("-0"),
        Decimal("sNaN12"),
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        time(1, 2, 3, 4, fold=1),
        date(1, 1, 1),
        timedelta.min,
    ):
        assert same(codec.decode_row(codec.encode_row(value)), value)
