"""Checks of serializers and deserializers, made while the graph is built."""

from __future__ import annotations

import inspect
from typing import Any

from engine.dataflow import f_repr
from engine.operators._checks import require_function

_ASYNC_ONES = "confluent_kafka.schema_registry._async."


def check_topic(step_id: str, topic: object) -> None:
    """Refuse what is no name of a topic.

    Raises:
        TypeError: Raised while the flow is built.
    """
    if topic is not None and not isinstance(topic, str):
        msg = f"`topic` of step {step_id!r} must be a `str` or None; got {topic!r}"
        raise TypeError(msg)


def check_serde(step_id: str, name: str, function: Any) -> None:
    """Refuse what can't be called with a value and a context, or gives coroutines.

    Raises:
        TypeError: Raised while the flow is built.
    """
    if isinstance(function, type):
        msg = (
            f"`{name}` of step {step_id!r} must be a serializer, a deserializer or a function; got "
            f"the class `{function.__name__}` itself: make an object of it"
        )
        raise TypeError(msg)
    require_function(step_id, name, function)
    if type(function).__module__.startswith(_ASYNC_ONES):
        kind = type(function).__name__
        plain = kind.removeprefix("Async")
        msg = f"`{name}` of step {step_id!r} is an `{kind}`, which must be awaited: use `{plain}`"
        raise TypeError(msg)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # Some functions written in C don't say.
    try:
        signature.bind(b"", None)
    except TypeError as ex:
        msg = (
            f"`{name}` of step {step_id!r} must take a value and its `SerializationContext`; "
            f"{f_repr(function)} takes {signature}: wrap it, as in "
            "`lambda value, context: function(value)`"
        )
        raise TypeError(msg) from ex
