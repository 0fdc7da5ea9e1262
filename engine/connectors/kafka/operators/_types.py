"""What the operators give, and the types of their signatures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from confluent_kafka.serialization import SerializationContext

from engine.dataflow import Stream

X_co = TypeVar("X_co", covariant=True)
E_co = TypeVar("E_co", covariant=True)
T = TypeVar("T")

Deserialize: TypeAlias = Callable[[bytes | None, SerializationContext], T]
"""A deserializer of ours or of confluent-kafka, or any function of bytes and their context."""

Serialize: TypeAlias = Callable[[Any, SerializationContext], bytes | str | None]
"""A serializer of ours or of confluent-kafka, or any function of a value and its context."""


@dataclass(frozen=True, slots=True)
class KafkaOpOut(Generic[X_co, E_co]):
    """The two streams of a step that may meet messages it can't make sense of."""

    oks: Stream[X_co]
    """What went well."""
    errs: Stream[E_co]
    """What didn't, each with its reason."""
