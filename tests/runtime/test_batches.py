"""Cutting up batches for an exchange: by key, evenly, and the key groups behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import UserCodeError
from engine.keys import KEY_GROUPS, decode_key, encode_key, key_group, owner
from engine.runtime._batch import KeyOwners, kind_of
from engine.runtime._ids import WorkerIndex

KEYS = st.recursive(
    st.text() | st.binary() | st.integers(), lambda keys: st.lists(keys, max_size=3).map(tuple)
)


class Colour(StrEnum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


class Pair(NamedTuple):
    first: str
    second: int


# Keys and groups


@pytest.mark.parametrize(
    ("key", "group"),
    [
        ("", 11),
        ("a", 4),
        ("key", 213),
        ("ключ", 205),
        ("\ud800", 84),
        (b"", 249),
        (b"a", 20),
        (0, 189),
        (1, 43),
        (-1, 104),
        (10**30, 204),
        ((), 168),
        (("a", 1), 142),
        ((("a",), b"b"), 74),
    ],
)
def test_key_groups_never_change(key: Any, group: int):
    """Stores are cut up by them, so they are the same in every version."""
    assert key_group(key) == group


def test_keys_of_other_types_are_other_keys():
    """1, "1" and b"1" have nothing to do with each other, nor have nested tuples."""
    keys = [1, "1", b"1", (1,), ("1",), ((1,),), ("1", ""), ("", "1"), (("1",), ""), ()]
    assert len({encode_key(key) for key in keys}) == len(keys)


@given(KEYS, KEYS)
def test_equal_keys_have_equal_bytes_and_others_differ(one: Any, other: Any):
    """The encoding tells keys apart just as Python does."""
    assert (encode_key(one) == encode_key(other)) is (one == other)


@given(KEYS)
def test_a_key_comes_back_from_its_bytes(key: Any):
    """Type and value."""
    back = decode_key(encode_key(key))
    assert (type(back), back) == (type(key), key)


@pytest.mark.parametrize(
    ("key", "plain"), [(Colour.RED, "red"), (Number.ONE, 1), (Pair("a", 1), ("a", 1))]
)
def test_subclasses_are_the_key_that_they_equal(key: Any, plain: Any):
    """They would be the same key in a dict, so they must meet on the same worker."""
    assert encode_key(key) == encode_key(plain)


def test_very_large_integers_are_keys_too():
    """Python's limit on decimal digits does not apply."""
    assert decode_key(encode_key(10**6000)) == 10**6000


def families() -> dict[str, Iterable[Any]]:
    """Keys as people number them."""
    return {
        "texts": (f"user-{i}" for i in range(100_000)),
        "padded": (f"{i:012d}" for i in range(100_000)),
        "integers": range(100_000),
        "pairs": ((f"shop{i % 300}", i) for i in range(100_000)),
        "bytes": (i.to_bytes(8, "big") for i in range(100_000)),
    }


@pytest.mark.parametrize("family", families())
def test_keys_spread_evenly_over_groups(family: str):
    """Of 100,000 keys no group has much more or less than a 256th."""
    counts = Counter(key_group(key) for key in families()[family])
    mean = 100_000 / KEY_GROUPS
    assert len(counts) == KEY_GROUPS
    assert 0.7 * mean < min(counts.values()) <= max(counts.values()) < 1.3 * mean


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 255, 256])
def test_groups_are_owned_evenly(workers: int):
    """Each worker owns its share of groups, to within one."""
    counts = Counter(owner(group, workers) for group in range(KEY_GROUPS))
    assert set(counts) == set(range(workers))
    assert max(counts.values()) - min(counts.values()) <= 1


# The owners of keys


def test_an_owner_is_the_one_of_the_keys_group():
    """Remembered or not."""
    owners = KeyOwners(3)
    for _ in range(2):
        for key in ("a", 1, b"x", ("a", 1)):
            assert owners((key, None)) == owner(key_group(key), 3)


@pytest.mark.parametrize("key", [True, 1.0, None, (True,), (1, 2.0), ["a"], bytearray(b"a")])
def test_what_equals_a_remembered_key_is_refused_all_the_same(key: Any):
    """`True` and 1.0 are found as 1 in a dict; they are no keys."""
    owners = KeyOwners(2)
    for good in (1, (1,), (1, 2)):
        owners((good, "value"))
    with pytest.raises(UserCodeError, match="a key must be a `str`"):
        owners((key, "value"))


@pytest.mark.parametrize("record", [None, "ab", ("a",), ("a", 1, 2), ["a", 1], {"a": 1}])
def test_a_record_without_a_key_is_refused(record: Any):
    """Only 2-tuples can be routed."""
    with pytest.raises(UserCodeError, match="2-tuples from upstream"):
        KeyOwners(2)(record)


def test_a_named_tuple_of_two_is_a_pair():
    """Subclasses of `tuple` are records like any other."""
    assert KeyOwners(2)(Pair("a", 1)) == owner(key_group("a"), 2)


def test_owners_remember_a_bounded_number_of_keys(monkeypatch: pytest.MonkeyPatch):
    """However many keys go by."""
    monkeypatch.setattr(KeyOwners, "_REMEMBERED_MAX", 100)
    owners = KeyOwners(4)
    for i in range(1000):
        assert owners((str(i), None)) == owner(key_group(str(i)), 4)
        assert len(owners._owners) <= 100


# Batches


@given(st.lists(st.integers()), st.integers(1, 5))
def test_a_batch_is_parted_by_owner(batch: list[int], workers: int):
    """Each record is in its owner's part, in the order that it had."""
    parts = kind_of(batch).partition(batch, lambda record: record % workers, workers)
    assert parts == [[r for r in batch if r % workers == i] for i in range(workers)]


@given(st.lists(st.integers()), st.integers(1, 5), st.data())
def test_a_batch_is_dealt_evenly(batch: list[int], workers: int, data: st.DataObject):
    """One record to each worker in turn, from the given one on."""
    first = WorkerIndex(data.draw(st.integers(0, workers - 1)))
    parts = kind_of(batch).deal(batch, first, workers)
    turns = [(first + i) % workers for i in range(len(batch))]
    assert parts == [
        [record for turn, record in zip(turns, batch, strict=True) if turn == i]
        for i in range(workers)
    ]


def test_the_size_of_a_batch_is_estimated_from_its_records():
    """Larger records and more of them make it larger; an empty batch has none."""
    kind = kind_of([])
    small, large = [b"x"] * 100, [b"x" * 10_000] * 100
    assert kind.nbytes([]) == 0
    assert kind.nbytes(small) < 10_000 < 1_000_000 < kind.nbytes(large) < 2_000_000
    assert kind.nbytes(small * 10) == 10 * kind.nbytes(small)
