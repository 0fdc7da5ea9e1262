"""Which worker an actor lives on: the one that owns its key, whatever its class."""

from __future__ import annotations

from typing import Any

from engine.operators._keys import check_key, key_and_value
from engine.operators.actors import Ref
from engine.runtime._batch import KeyOwners


class ActorOwners(KeyOwners):
    """As `KeyOwners`, for records whose key may be a `Ref`."""

    def divide(self, batch: list[Any], parts: list[list[Any]]) -> None:
        """Add each record to the part of the worker on which its actor lives."""
        for record in batch:
            key, _ = key_and_value(record)
            if key.__class__ is Ref:
                key = key.key
            elif key.__class__ is not str:
                check_key(key)
            parts[self.of_key(key)].append(record)

    def of_key(self, key: Any) -> int:
        """The worker that owns a key, which is one for sure."""
        index = self._owners.get(key)
        return self._find(key) if index is None else index
