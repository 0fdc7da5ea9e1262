"""Finds out what exactly can't be encoded or decoded, for the error message.

Slow and only called once something has failed.
"""

from __future__ import annotations

import importlib
import pickletools
from collections.abc import Callable, Iterator
from typing import Any, cast

from engine.errors import DecodeError, EncodeError
from engine.recovery._codec import PICKLE, PickleRefusedError

_DEPTH_MAX = 50


def encode_error(
    encode: Callable[[Any], object], value: Any, step_id: str, key: object
) -> EncodeError | None:
    """The error that names the part of a state that `encode` refuses; None if it refuses none."""
    error = _failure(encode, value)
    if error is None:
        return None
    where, culprit, error = _culprit(encode, value, error)
    msg = (
        f"step {step_id!r}, key {key!r}: the state can't be written, because {where} is a "
        f"`{_type_name(culprit)}`: {error}"
    )
    failure = EncodeError(msg, step_id=step_id, key=key, where=where)
    failure.__cause__ = error
    return failure


def _failure(encode: Callable[[Any], object], value: Any) -> Exception | None:
    try:
        encode(value)
    except Exception as ex:  # noqa: BLE001 - a user's class may raise anything when encoded
        return ex
    return None


def _culprit(
    encode: Callable[[Any], object], value: Any, error: Exception
) -> tuple[str, Any, Exception]:
    """Go down into the first part that fails, until none of the parts does."""
    where = "state"
    for _ in range(_DEPTH_MAX):
        for name, part in _parts(value):
            part_error = _failure(encode, part)
            if part_error is not None:
                where, value, error = where + name, part, part_error
                break
        else:
            break
    return where, value, error


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    instance: Any = value  # Not narrowed by what follows, as `value` is.
    if isinstance(value, dict):
        for key, part in cast("dict[Any, Any]", value).items():
            yield f".key({key!r:.80})", key
            yield f"[{key!r:.80}]", part
    elif isinstance(value, list | tuple | set | frozenset):
        for i, part in enumerate(cast("list[Any]", value)):
            yield f"[{i}]", part
    for name in _slots(cast("type[Any]", type(instance))):
        if hasattr(instance, name):
            yield f".{name}", getattr(instance, name)
    for name, part in getattr(instance, "__dict__", {}).items():
        yield f".{name}", part


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        yield from [slots] if isinstance(slots, str) else slots


def _type_name(value: Any) -> str:
    kind = cast("type[Any]", type(value))
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def decode_error(row: bytes, error: Exception, step_id: str, key: object) -> DecodeError:
    """The error that says why a sound row can't be read; names the class that is gone."""
    whose = f"step {step_id!r}" if key is None else f"step {step_id!r}, key {key!r}"
    missing = None
    if isinstance(error, PickleRefusedError):
        reason = str(error)
    elif row[:1] == PICKLE and (missing := _missing_class(row[1:])) is not None:
        reason = (
            f"the class `{missing}` can't be imported any more; "
            "keep the name importable, for example by an alias where it used to be"
        )
    else:
        reason = f"{type(error).__name__}: {error}"
    msg = f"{whose}: the state can't be read: {reason}"
    failure = DecodeError(msg, step_id=step_id, key=key, class_path=missing)
    failure.__cause__ = error
    return failure


def _missing_class(pickled: bytes) -> str | None:
    """The first class or function that a pickle names and that isn't there."""
    for module, name in _globals_of(pickled):
        try:
            found: Any = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError):
            return f"{module}.{name}"
    return None


def _globals_of(pickled: bytes) -> Iterator[tuple[str, str]]:
    """What a pickle of protocol 4 or 5 imports: the two texts before each STACK_GLOBAL."""
    texts: list[str] = []
    memo: list[str | None] = []
    newest: str | None = None
    operations = cast("Iterator[tuple[Any, Any, Any]]", pickletools.genops(pickled))
    for opcode, text, _ in operations:
        if opcode.name == "MEMOIZE":
            memo.append(newest)
            continue
        if opcode.name == "STACK_GLOBAL":
            yield texts[-2], texts[-1]
        if opcode.name in {"BINGET", "LONG_BINGET"}:
            newest = memo[int(text)]
        else:
            newest = text if isinstance(text, str) else None
        if newest is not None:
            texts.append(newest)
