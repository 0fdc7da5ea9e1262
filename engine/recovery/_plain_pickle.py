"""Reads pickles of standard types, and no others: so no code runs that their writer chose.

The log has states in columns that are pickled as a whole, whatever they are. Who doesn't allow
pickle can still read those that any other encoding would have had a form for.
"""

from __future__ import annotations

import pickle
from typing import Any, Final

_ALLOWED: Final = frozenset(
    {
        ("builtins", "complex"),
        ("builtins", "frozenset"),
        ("builtins", "range"),
        ("builtins", "set"),
        ("datetime", "date"),
        ("datetime", "datetime"),
        ("datetime", "time"),
        ("datetime", "timedelta"),
        ("datetime", "timezone"),
        ("decimal", "Decimal"),
        ("uuid", "SafeUUID"),
        ("uuid", "UUID"),
    }
)
"""What may be called: constructors that do nothing but make a value."""


class NotPlainError(ValueError):
    """A pickle has more in it than standard types; says what."""


class _Bytes:
    """Bytes as the file that an unpickler reads."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read(self, size: int) -> bytes:
        start = self._at
        self._at = min(start + size, len(self._data))
        return self._data[start : self._at]

    def readline(self) -> bytes:
        end = self._data.find(b"\n", self._at) + 1
        return self.read((end or len(self._data)) - self._at)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _ALLOWED:
            msg = f"it needs `{module_name}.{global_name}`"
            raise NotPlainError(msg)
        return super().find_class(module_name, global_name)


def load_plain(data: bytes) -> Any:
    """The value that a pickle is of.

    Raises:
        NotPlainError: It is of a class of somebody's own.
        Exception: The bytes are damaged.

    >>> load_plain(pickle.dumps([1, ("a", None)]))
    [1, ('a', None)]
    """
    return _PlainUnpickler(_Bytes(data)).load()
