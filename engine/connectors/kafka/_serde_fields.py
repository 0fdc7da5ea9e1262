"""Finds fields that a type doesn't have, which msgspec itself looks for in its own structs only.

Called by `engine.connectors.kafka._serde_typed`, where a user wants such fields refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast


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

    info = msgspec.inspect.type_info(wanted)

    def decode(value: bytes) -> Any:
        decoded = typed(value)
        for path in unknown_fields(info, anything(value), "$"):
            msg = f"Object contains unknown field `{path}`"
            raise msgspec.ValidationError(msg)
        return decoded

    return decode


def unknown_fields(info: Any, plain: Any, path: str) -> Iterator[str]:
    """The paths of the fields in a plain value that a type has no place for.

    Args:
        info: The type, as `msgspec.inspect` describes it.
        plain: The value, which is known to fit the type but for such fields.
        path: Where it stands.
    """
    if isinstance(plain, dict):
        yield from _in_object(info, cast("dict[Any, Any]", plain), path)
    elif isinstance(plain, list):
        yield from _in_array(info, cast("list[Any]", plain), path)


def _in_object(info: Any, plain: Mapping[Any, Any], path: str) -> Iterator[str]:
    [found] = _members(info, "fields", "value_type") or [None]
    if hasattr(found, "value_type"):
        for name, item in plain.items():
            yield from unknown_fields(found.value_type, item, f"{path}[{name!r}]")
    elif hasattr(found, "fields"):
        known = {field.encode_name: field.type for field in found.fields}
        for name, item in plain.items():
            if name in known:
                yield from unknown_fields(known[name], item, f"{path}.{name}")
            elif name != getattr(found, "tag_field", None):
                yield f"{path}.{name}"


def _in_array(info: Any, plain: list[Any], path: str) -> Iterator[str]:
    [found] = _members(info, "item_type", "item_types") or [None]
    if found is None:
        return
    types = getattr(found, "item_types", None) or [found.item_type] * len(plain)
    for i, (item_type, item) in enumerate(zip(types, plain, strict=False)):
        yield from unknown_fields(item_type, item, f"{path}[{i}]")


def _members(info: Any, *names: str) -> list[Any]:
    """The one type among those of a union that has any of these; nothing if there are several.

    There are several only among structs, which see to their fields themselves.
    """
    members = getattr(info, "types", (info,))
    found = [member for member in members if any(hasattr(member, name) for name in names)]
    return found if len(found) == 1 else []
