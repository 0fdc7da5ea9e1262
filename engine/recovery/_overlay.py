"""Changes that are in the log but not in the table yet, so that reads see them.

The worker store asks here first, newest changes first, and `_apply` takes them to the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import chain
from typing import Any, Final, TypeAlias

from engine.recovery._changes import Chunk
from engine.recovery._ids import StepNumber


class Missing(Enum):
    """Type of `MISSING`, which is its only member, so that a type checker can tell it apart."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""Stands for the state of a key that has none."""

_CHUNK_BYTES: Final = 1024
"""What a chunk takes in memory besides what it holds: it counts where epochs are small."""

Index: TypeAlias = dict[Any, Chunk | None]
"""The newest chunk with a key's state; None where the key was deleted."""


class Layer:
    """The changes of an epoch, or of several one after the other."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        """In the order in which they were made."""
        self.nbytes = 0
        """About how much memory they take."""
        self._indexes: dict[tuple[bytes, StepNumber], Index] = {}
        self._indexed = 0

    def add(self, chunks: Sequence[Chunk], nbytes: int) -> None:
        """Put chunks on top of those before.

        Args:
            chunks: What changed.
            nbytes: How many bytes they are in the log.
        """
        self.chunks += chunks
        self.nbytes += nbytes + _CHUNK_BYTES * len(chunks)

    def take(self, newer: Layer) -> None:
        """Put all of another layer on top, which is given up."""
        self.chunks += newer.chunks
        self.nbytes += newer.nbytes

    def index(self, kind: bytes, step: StepNumber) -> Index | None:
        """The newest chunk of each key of a step.

        Made when first asked for: as long as all states are in memory nobody asks.
        """
        indexes = self._indexes
        for chunk in self.chunks[self._indexed :] if self._indexed < len(self.chunks) else ():
            index = indexes.setdefault((chunk.kind, chunk.step), {})
            # A plain loop: `dict.update` of some hundred keys at a time takes half as long again.
            for key in chunk.keys:
                index[key] = chunk
            for key in chunk.deleted:
                index[key] = None
        self._indexed = len(self.chunks)
        return indexes.get((kind, step))


class Overlay:
    """Three layers: the open epoch, committed ones that wait, and those that are being applied."""

    def __init__(self) -> None:
        self._open = Layer()
        self.waiting = Layer()
        """Of committed epochs; not applied yet."""
        self.applying: Layer | None = None
        """Of committed epochs; on its way to the table."""

    def add(self, chunks: Sequence[Chunk], nbytes: int) -> None:
        """Add changes of the open epoch."""
        self._open.add(chunks, nbytes)

    def commit(self) -> None:
        """The open epoch is committed."""
        committed, self._open = self._open, Layer()
        if self.waiting.chunks:
            self.waiting.take(committed)
        else:
            self.waiting = committed

    @property
    def nbytes(self) -> int:
        """About how much memory committed changes take until they are applied."""
        return self.waiting.nbytes + (self.applying.nbytes if self.applying else 0)

    def begin_applying(self) -> Layer:
        """Take what waits, to apply it; reads go on seeing it until `end_applying`."""
        self.applying, self.waiting = self.waiting, Layer()
        return self.applying

    def end_applying(self) -> None:
        """What was taken is in the table now."""
        self.applying = None

    def mentions(self, kind: bytes, step: StepNumber) -> bool:
        """Whether there is anything of a step."""
        layers = (self._open, self.waiting, self.applying)
        chunks = chain.from_iterable(layer.chunks for layer in layers if layer is not None)
        return any(chunk.kind == kind and chunk.step == step for chunk in chunks)

    def indexes(self, kind: bytes, step: StepNumber) -> list[Index]:
        """What there is of a step, newest first."""
        layers = (self._open, self.waiting, self.applying)
        found = [layer.index(kind, step) for layer in layers if layer is not None and layer.chunks]
        return [index for index in found if index]

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
