"""Changes that are in the log but not in the table yet, by epoch, so that reads see them.

The worker store asks here first, newest epoch first, and takes epochs out once they are applied.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, Final, TypeAlias

from engine.recovery._changes import Chunk
from engine.recovery._ids import Epoch, StepNumber


class Missing(Enum):
    """Type of `MISSING`, which is its only member, so that a type checker can tell it apart."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""Stands for the state of a key that has none."""

Index: TypeAlias = dict[Any, Chunk | None]
"""The newest chunk with a key's state; None where the key was deleted."""


class Layer:
    """The changes of an epoch, or of several merged."""

    def __init__(self, epoch: Epoch) -> None:
        self.epoch = epoch
        self.chunks: list[Chunk] = []
        self.indexes: dict[tuple[bytes, StepNumber], Index] = {}
        self.nbytes = 0

    def add(self, chunk: Chunk) -> None:
        """Put a chunk on top of those before."""
        self.chunks.append(chunk)
        index = self.indexes.setdefault((chunk.kind, chunk.step), {})
        # A plain loop: `dict.update` of some hundred keys at a time takes half as long again.
        for key in chunk.keys:
            index[key] = chunk
        for key in chunk.deleted:
            index[key] = None


class Overlay:
    """All layers, by epoch."""

    def __init__(self) -> None:
        self._layers: dict[Epoch, Layer] = {}

    @property
    def nbytes(self) -> int:
        """How many bytes of log all layers are."""
        return sum(layer.nbytes for layer in self._layers.values())

    def layer(self, epoch: Epoch) -> Layer:
        """The layer of an epoch, made if need be. Epochs are not taken up out of order."""
        found = self._layers.get(epoch)
        if found is None:
            found = self._layers[epoch] = Layer(epoch)
            self._layers = dict(sorted(self._layers.items()))
        return found

    def layers(self, through: Epoch) -> list[Layer]:
        """The layers of epochs up to one, oldest first."""
        return [layer for epoch, layer in self._layers.items() if epoch <= through]

    def drop(self, through: Epoch) -> None:
        """Forget epochs, which are in the table now."""
        for epoch in [epoch for epoch in self._layers if epoch <= through]:
            del self._layers[epoch]

    def indexes(self, kind: bytes, step: StepNumber) -> list[Index]:
        """What there is of a step, newest first."""
        if not self._layers:
            return []
        found = [layer.indexes.get((kind, step)) for layer in self._layers.values()]
        return [index for index in reversed(found) if index]

    def newest(self, kind: bytes, step: StepNumber) -> Iterator[tuple[Any, Chunk | None]]:
        """Each key of a step once, with its newest chunk, or None if it is deleted."""
        seen: set[Any] = set()
        for index in self.indexes(kind, step):
            for key, chunk in index.items():
                if key not in seen:
                    seen.add(key)
                    yield key, chunk


def find(indexes: list[Index], key: Any) -> Chunk | Missing | None:
    """A key's newest chunk; MISSING if the overlay knows nothing of the key."""
    for index in indexes:
        found = index.get(key, MISSING)
        if found is not MISSING:
            return found
    return MISSING
