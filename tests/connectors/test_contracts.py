"""The base classes: defaults that let a Bytewax connector work unchanged, names, import time."""

from __future__ import annotations

import subprocess
import sys
import zlib
from typing import Any

import pytest

from engine import connectors, inputs, outputs
from engine.connectors import (
    PENDING,
    DynamicSource,
    FencedError,
    FixedPartitionedSink,
    FixedPartitionedSource,
    Pending,
    SinkSession,
    StatefulSinkPartition,
    StatefulSourcePartition,
    StatelessSinkPartition,
    StatelessSourcePartition,
)
from engine.errors import ConnectorError


class _Reader(StatefulSourcePartition[int, int]):
    def next_batch(self) -> list[int]:
        return []

    def snapshot(self) -> int:
        return 0


class _StatelessReader(StatelessSourcePartition[int]):
    def next_batch(self) -> list[int]:
        return []


class _Writer(StatefulSinkPartition[int, int]):
    def write_batch(self, values: list[int]) -> None:
        pass

    def snapshot(self) -> int:
        return 0


class _StatelessWriter(StatelessSinkPartition[int]):
    def write_batch(self, items: list[int]) -> None:
        pass


class _Sink(FixedPartitionedSink[int, int]):
    def list_parts(self) -> list[str]:
        return ["only"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Writer:
        return _Writer()


@pytest.mark.parametrize("part", [_Reader(), _StatelessReader()], ids=["stateful", "stateless"])
def test_source_defaults(part: Any) -> None:
    """A source partition need not say when to be asked, hear of commits, or close."""
    assert part.next_awake() is None
    assert part.caught_up() is True
    assert part.on_commit(None) is None
    assert part.close() is None


@pytest.mark.parametrize("part", [_Writer(), _StatelessWriter()], ids=["stateful", "stateless"])
def test_sink_defaults(part: Any) -> None:
    """A sink partition need not take part in epochs: it is flushed and has nothing to publish."""
    assert part.begin(SinkSession("store", 1, "flow.out", "worker-0")) is None
    assert part.flush() is None
    assert part.prepare(1) == []
    assert part.publish(1, []) is None
    assert part.published() is None
    assert part.close() is None


def test_rows_without_a_publish_are_an_error() -> None:
    """A sink that gives rows away and can't publish them would lose them silently."""
    with pytest.raises(NotImplementedError, match="_Writer gave rows .* override publish"):
        _Writer().publish(1, [b"row"])


def test_sessions_are_values() -> None:
    """A session can't change after it was handed out, and equal ones are one key."""
    one, other = (SinkSession("store", 1, "flow.out", "worker-0") for _ in range(2))
    assert {one: "marker"}[other] == "marker"
    with pytest.raises(AttributeError):
        one.generation = 2  # type: ignore[misc]


def test_being_fenced_is_an_error_of_the_connector() -> None:
    """Whoever handles connectors' errors handles this one, and can tell it from the others."""
    assert issubclass(FencedError, ConnectorError)


def test_sinks_are_at_least_once_unless_they_say_better() -> None:
    """The guarantee that is printed is the weaker one by default."""
    assert _Sink().delivery == "at-least-once"


@pytest.mark.parametrize(
    ("key", "data"),
    [("key", b"key"), ("ключ", "ключ".encode()), ("", b""), (b"\xff", b"\xff"), (7, b"7")],
)
def test_keys_are_routed_by_adler_32(key: Any, data: bytes) -> None:
    """The default routing is Adler-32 of the key's UTF-8 text, which no process changes."""
    assert _Sink().part_fn(key) == zlib.adler32(data)


def test_tuple_keys_are_routed_by_what_they_hold() -> None:
    """Keys that are tuples are told apart, with the types of what they hold."""
    numbers = {_Sink().part_fn(key) for key in [("a", 1), ("a", "1"), (b"a", 1)]}  # type: ignore[arg-type]
    assert len(numbers) == 3


def test_pending_is_the_only_one_of_its_type() -> None:
    """A type checker and the runtime can tell `PENDING` from every other answer."""
    assert list(Pending) == [PENDING]
    assert not isinstance(PENDING, list)


@pytest.mark.parametrize("base", [FixedPartitionedSource, DynamicSource, FixedPartitionedSink])
def test_what_must_be_written_is_demanded(base: type[Any]) -> None:
    """A connector without its required methods can't be made."""
    with pytest.raises(TypeError, match="abstract"):
        base()


def test_bytewax_module_names_offer_the_same_classes() -> None:
    """`engine.inputs` and `engine.outputs` are other names for `engine.connectors`."""
    type_variables = {"S", "Sn", "X"}
    for module in (inputs, outputs):
        for name in set(module.__all__) - type_variables:
            assert getattr(module, name) is getattr(connectors, name)
    both = set(inputs.__all__) | set(outputs.__all__)
    assert both - type_variables == set(connectors.__all__)


def test_importing_connectors_is_light() -> None:
    """What only some users need is not loaded at the start of every run."""
    code = (
        "import sys, engine.inputs, engine.outputs, engine.connectors.files, "
        "engine.connectors.stdio, engine.connectors.demo; "
        "print(*({'asyncio', 'csv', 'random', 'sqlite3', 'ssl', 'confluent_kafka', 'rocksdict'} "
        "& sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
