"""Standard types that msgpack doesn't know, as msgpack extensions with an exact way back.

Used by `_codec` alone. A `bytearray` is not among them, because msgpack makes `bytes` of it without
asking. An extension's payload is msgpack again, or text where the type has an
exact one. Types are matched exactly: a subclass is somebody's own class and goes another way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import partial
from typing import Any, TypeAlias, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack as untyped_msgpack  # type: ignore[import-untyped]

msgpack: Any = untyped_msgpack

Parts: TypeAlias = tuple[int, list[Any]]
"""An extension's code and what its payload is packed from."""

_TUPLE, _SET, _FROZENSET, _INT, _COMPLEX, _RANGE = range(1, 7)
_DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID = range(16, 22)

DEPTH_MAX = 100
"""How deep extensions may nest: each level costs Python a few frames."""


def _zone_parts(zone: tzinfo | None) -> list[Any]:
    if zone is None:
        return []
    if zone is UTC:
        return ["utc"]
    if type(zone) is timezone:
        untyped: Any = zone
        return ["offset", *untyped.__getinitargs__()]
    if type(zone) is ZoneInfo and zone.key is not None:
        return ["key", zone.key]
    raise UnpackableError(zone)


def _zone(parts: list[Any]) -> tzinfo | None:
    if not parts:
        return None
    kind, *rest = parts
    if kind == "utc":
        return UTC
    return timezone(*rest) if kind == "offset" else ZoneInfo(rest[0])


def _clock_parts(at: datetime | time) -> list[Any]:
    zone = _zone_parts(at.tzinfo)
    return [at.hour, at.minute, at.second, at.microsecond, at.fold, *zone]


def _datetime(year: int, month: int, day: int, *clock: Any) -> datetime:
    hour, minute, second, microsecond, fold, *zone = clock
    return datetime(year, month, day, hour, minute, second, microsecond, _zone(zone), fold=fold)


def _time(*clock: Any) -> time:
    hour, minute, second, microsecond, fold, *zone = clock
    return time(hour, minute, second, microsecond, _zone(zone), fold=fold)


class UnpackableError(TypeError):
    """Something has no msgpack form; carries what it is."""

    def __init__(self, what: object) -> None:
        super().__init__(f"no msgpack form for `{type(what).__module__}.{type(what).__qualname__}`")
        self.what = what


_TO: dict[type, Callable[[Any], Parts]] = {
    tuple: lambda v: (_TUPLE, [*v]),
    set: lambda v: (_SET, [*v]),
    frozenset: lambda v: (_FROZENSET, [*v]),
    # Only integers of more than 64 bits come here.
    int: lambda v: (_INT, [v.to_bytes(v.bit_length() // 8 + 1, "big", signed=True)]),
    complex: lambda v: (_COMPLEX, [v.real, v.imag]),
    range: lambda v: (_RANGE, [v.start, v.stop, v.step]),
    datetime: lambda v: (_DATETIME, [v.year, v.month, v.day, *_clock_parts(v)]),
    date: lambda v: (_DATE, [v.year, v.month, v.day]),
    time: lambda v: (_TIME, _clock_parts(v)),
    timedelta: lambda v: (_TIMEDELTA, [v.days, v.seconds, v.microseconds]),
    Decimal: lambda v: (_DECIMAL, [str(v)]),
    UUID: lambda v: (_UUID, [v.bytes]),
}

_FROM: dict[int, Callable[[list[Any]], Any]] = {
    _TUPLE: tuple,
    _SET: set,
    _FROZENSET: frozenset,
    _INT: lambda parts: int.from_bytes(parts[0], "big", signed=True),
    _COMPLEX: lambda parts: complex(*parts),
    _RANGE: lambda parts: range(*parts),
    _DATETIME: lambda parts: _datetime(*parts),
    _DATE: lambda parts: date(*parts),
    _TIME: lambda parts: _time(*parts),
    _TIMEDELTA: lambda parts: timedelta(*parts),
    _DECIMAL: lambda parts: Decimal(parts[0]),
    _UUID: lambda parts: UUID(bytes=parts[0]),
}

SCALARS = frozenset({int, float, str, bytes, bool, type(None)})
"""Types that msgpack packs by itself and that hold nothing else."""
LEAVES = SCALARS | {complex, range, datetime, date, time, timedelta, Decimal, UUID}
"""Types that have a msgpack form and hold nothing else, so that two references don't matter."""
CONTAINERS = frozenset({list, dict, tuple, set, frozenset})


def items_of(container: Any) -> Iterable[Any]:
    """What a container of one of the `CONTAINERS` types holds, keys of dicts too."""
    if type(container) is dict:
        mapping = cast("dict[Any, Any]", container)
        return (*mapping.keys(), *mapping.values())
    return cast("Iterable[Any]", container)


class _Levels:
    """A msgpack packer for each level of nesting: one can't be used within itself."""

    def __init__(self, extend: Callable[[Any], Any], unicode_errors: str | None) -> None:
        self._extend = extend
        self._unicode_errors = unicode_errors
        self._packers: list[Any] = []

    def at(self, depth: int) -> Any:
        while len(self._packers) <= depth:
            packer = msgpack.Packer(
                default=self._extend, strict_types=True, unicode_errors=self._unicode_errors
            )
            self._packers.append(packer)
        return self._packers[depth]


class Packer:
    """Packs what msgpack and the extensions know, and refuses the rest with `UnpackableError`."""

    def __init__(self) -> None:
        self._depth = 0
        self._plain = _Levels(self._extend, None)
        self._surrogates = _Levels(self._extend, "surrogatepass")
        self._levels = self._plain
        self.pack_scalars: Callable[[Any], bytes] = self._plain.at(0).pack
        """Packs scalars and containers of scalars, texts with lone surrogates excepted."""
        self.pack_flat_tuple: Callable[[Any], bytes] = msgpack.Packer(default=self._extend).pack
        """Packs a tuple of scalars as an array, with the same exception."""

    def pack(self, value: Any) -> bytes:
        """Raises `UnpackableError`, or `ValueError` or `RecursionError` if nested too deeply."""
        try:
            return self._pack(value, self._plain)
        except UnicodeEncodeError:
            return self._pack(value, self._surrogates)

    def _pack(self, value: Any, levels: _Levels) -> bytes:
        self._levels, self._depth = levels, 0
        return cast("bytes", levels.at(0).pack(value))

    def _extend(self, value: Any) -> Any:
        how = _TO.get(value.__class__)
        if how is None:
            raise UnpackableError(value)
        code, parts = how(value)
        if self._depth == DEPTH_MAX:
            raise RecursionError
        self._depth += 1
        try:
            return msgpack.ExtType(code, self._levels.at(self._depth).pack(parts))
        finally:
            self._depth -= 1


def unpack(data: bytes) -> Any:
    """What `Packer.pack` packed."""
    return msgpack.unpackb(
        data, ext_hook=_from_extension, strict_map_key=False, unicode_errors="surrogatepass"
    )


def _from_extension(code: int, payload: bytes) -> Any:
    how = _FROM.get(code)
    if how is None:
        msg = f"unknown msgpack extension {code}"
        raise ValueError(msg)
    return how(unpack(payload))


unpack_flat_tuple: Callable[[bytes], tuple[Any, ...]] = partial(
    msgpack.unpackb,
    use_list=False,
    ext_hook=_from_extension,
    strict_map_key=False,
    unicode_errors="surrogatepass",
)
"""What `Packer.pack_flat_tuple` packed."""
