"""Finds fields that a type doesn't have, which msgspec itself looks for in its own structs only.

Called by `engine.connectors.kafka._serde_typed`, where a user wants such fields refused. A type is
turned into functions beforehand, as each record goes through them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Check: TypeAlias = Callable[[Any], str]
"""Gives the way to a field of a plain value that the type has no place for, "" if there is none."""


def refusing_unknown_fields(
    typed: Callable[[bytes], Any], anything: Callable[[bytes], Any], wanted: Any
) -> Callable[[bytes], Any]:
    """As `typed`, for bytes that have no fields but those of the type.

    Args:
        typed: Reads bytes into the type.
        anything: Reads the same bytes into plain values.
        wanted: The type.
    """
    import msgspec  # noqa: PLC0415 - whoever calls this has just imported it

    check = _Checks().of(msgspec.inspect.type_info(wanted))
    if check is None:
        return typed

    def decode(value: bytes) -> Any:
        decoded = typed(value)
        way = check(anything(value))
        if way:
            msg = f"Object contains unknown field - at `${way}`"
            raise msgspec.ValidationError(msg)
        return decoded

    return decode


class _Checks:
    """Makes the checks of types, as `msgspec.inspect` describes them."""

    def __init__(self) -> None:
        self._made: dict[int, Check] = {}
        """By the identity of the type's description: it may have itself among its parts."""

    def of(self, info: Any) -> Check | None:
        """The check of what a type allows; None if it allows nothing with fields."""
        if id(info) in self._made:
            return self._made[id(info)]
        of_objects = self._of_objects(info)
        of_arrays = self._of_arrays(info)
        if of_objects is None and of_arrays is None:
            return None

        def check(plain: Any) -> str:
            if plain.__class__ is dict and of_objects is not None:
                return of_objects(plain)
            if plain.__class__ is list and of_arrays is not None:
                return of_arrays(plain)
            return ""

        return check

    def _of_objects(self, info: Any) -> Check | None:
        """Of what is an object in JSON."""
        found = _member(info, "fields", "value_type")
        if found is None:
            return None
        if found is not info:
            return self.of(found)
        if hasattr(found, "value_type"):
            inner = self.of(found.value_type)
            return None if inner is None else _in_values(inner)
        deeper: dict[str, Check] = {}
        # Made known before the fields are looked at, which may be of the same type.
        self._made[id(info)] = _in_fields(found, deeper)
        for field in found.fields:
            if (inner := self.of(field.type)) is not None:
                deeper[field.encode_name] = inner
        return self._made[id(info)]

    def _of_arrays(self, info: Any) -> Check | None:
        """Of what is an array in JSON."""
        found = _member(info, "item_type", "item_types")
        if found is None:
            return None
        if hasattr(found, "item_type"):
            inner = self.of(found.item_type)
            return None if inner is None else _in_items(inner)
        checks = [self.of(item) for item in found.item_types]
        return _in_places(checks) if any(checks) else None


def _in_fields(found: Any, deeper: Mapping[str, Check]) -> Check:
    names = {field.encode_name for field in found.fields} | {getattr(found, "tag_field", None)}

    def check(plain: Mapping[str, Any]) -> str:
        if not isinstance(plain, dict):
            return ""
        if not plain.keys() <= names:
            return f".{next(name for name in plain if name not in names)}"
        for name, inner in deeper.items():
            if name in plain and (way := inner(plain[name])):
                return f".{name}{way}"
        return ""

    return check


def _in_values(inner: Check) -> Check:
    def check(plain: Mapping[Any, Any]) -> str:
        return next((f"[{key!r}]{way}" for key, item in plain.items() if (way := inner(item))), "")

    return check


def _in_items(inner: Check) -> Check:
    def check(plain: list[Any]) -> str:
        for i, item in enumerate(plain):
            if way := inner(item):
                return f"[{i}]{way}"
        return ""

    return check


def _in_places(checks: list[Check | None]) -> Check:
    def check(plain: list[Any]) -> str:
        for i, (inner, item) in enumerate(zip(checks, plain, strict=False)):
            if inner is not None and (way := inner(item)):
                return f"[{i}]{way}"
        return ""

    return check


def _member(info: Any, *names: str) -> Any:
    """The one type among those of a union that has any of these; None if there are several.

    There are several only among structs, which see to their fields themselves.
    """
    members = getattr(info, "types", (info,))
    found = [member for member in members if any(hasattr(member, name) for name in names)]
    return found[0] if len(found) == 1 else None
