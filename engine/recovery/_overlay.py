"""Changes that are in the log but not in the table yet, so that reads see them.

The worker store asks here first, newest changes first, and `_apply` takes them to the table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from enum import Enum
from typing import Any, Final, TypeAlias

from engine.recovery._changes import Chunk
from engine.recovery._ids import StepNumber


class Missing(Enum):
    """Type of `MISSING`, which is its only member, so that a type checker can tell it apart."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""Stands for the state of a key that has none."""

_CHUNKS_BACK: Final = 256
"""How many are taken into the indexes at a time."""

_CHUNK_BYTES: Final = 1024
"""What a chunk takes in memory besides what it holds: it counts where epochs are small."""

Index: TypeAlias = dict[Any, Chunk | None]
"""The newest chunk with a key's state; None where the key was deleted."""


class _StepChunks:
    """A layer's chunks of one kind and step, and which of them has a key's state."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self._index: Index = {}
        # The chunks in between are in the index.
        self._from = self._to = 0

    def add(self, chunk: Chunk) -> None:
        """Put a chunk on top."""
        self._chunks.append(chunk)

    def index(self, wanted: Collection[Any] | None) -> Index:
        """As `Layer.index`."""
        if self._from == self._to:
            self._from = self._to = len(self._chunks)
        index = self._index
        for chunk in self._chunks[self._to :]:
            # A plain loop: `dict.update` of some hundred keys at a time takes half as long again.
            for key in chunk.keys:
                index[key] = chunk
            for key in chunk.deleted:
                index[key] = None
        self._to = len(self._chunks)
        while self._from and (wanted is None or not all(map(index.__contains__, wanted))):
            self._index_older()
        return index

    def _index_older(self) -> None:
        end, self._from = self._from, max(0, self._from - _CHUNKS_BACK)
        add = self._index.setdefault
        for chunk in reversed(self._chunks[self._from : end]):
            for key in chunk.keys:
                add(key, chunk)
            for key in chunk.deleted:
                add(key, None)


class Layer:
    """The changes of an epoch, or of several one after the other."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        """In the order in which they were made."""
        self.nbytes = 0
        """About how much memory they take."""
        self._steps: dict[tuple[bytes, StepNumber], _StepChunks] = {}

    def add(self, chunks: Sequence[Chunk], nbytes: int) -> None:
        """Put chunks on top of those before.

        Args:
            chunks: What changed.
            nbytes: How many bytes they are in the log.
        """
        self._put(chunks)
        self.nbytes += nbytes + _CHUNK_BYTES * len(chunks)

    def take(self, newer: Layer) -> None:
        """Put all of another layer on top, which is given up."""
        self._put(newer.chunks)
        self.nbytes += newer.nbytes

    def _put(self, chunks: Sequence[Chunk]) -> None:
        self.chunks += chunks
        for chunk in chunks:
            of_step = chunk.kind, chunk.step
            if of_step not in self._steps:
                self._steps[of_step] = _StepChunks()
            self._steps[of_step].add(chunk)

    def mentions(self, kind: bytes, step: StepNumber) -> bool:
        """Whether there is anything of a step."""
        return (kind, step) in self._steps

    def index(
        self, kind: bytes, step: StepNumber, wanted: Collection[Any] | None = None
    ) -> Index | None:
        """The newest chunk of each key of a step.

        Made when first asked for, as long as all states are in memory nobody asks; and from the
        newest chunk back only as far as it takes, so that a run goes on soon after a crash.

        Args:
            kind: `STATE` or `PARTITION`.
            step: Whose.
            wanted: The keys that are looked for; others may be missing. None for all.
        """
        chunks = self._steps.get((kind, step))
        return None if chunks is None else chunks.index(wanted)


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
        return any(layer.mentions(kind, step) for layer in self._layers())

    def indexes(
        self, kind: bytes, step: StepNumber, wanted: Collection[Any] | None = None
    ) -> list[Index]:
        """What there is of a step, newest first; of certain keys at least, if some are given."""
        return [index for layer in self._layers() if (index := layer.index(kind, step, wanted))]

    def _layers(self) -> Iterator[Layer]:
        yield self._open
        yield self.waiting
        if self.applying is not None:
            yield self.applying

    def newest(self, kind: bytes, step: StepNumber) -> Iterator[tuple[Any, Chunk | None]]:
        """Each key of a step once, with its newest chunk, or None if it is deleted."""
        seen: set[Any] = set()
        for index in self.indexes(kind, step):
            for key, chunk in index.items():
                if key not in seen:
                    seen.add(key)
                    yield key, chunk


class Committed(Overlay):
    """What of an overlay is committed: all of it but the open epoch.

    Args:
        overlay: Whose layers it looks at, as they are then.
    """

    def __init__(self, overlay: Overlay) -> None:
        super().__init__()
        self._of = overlay

    def _layers(self) -> Iterator[Layer]:
        yield self._of.waiting
        if self._of.applying is not None:
            yield self._of.applying


def find(indexes: list[Index], key: Any) -> Chunk | Missing | None:
    """A key's newest chunk; MISSING if the overlay knows nothing of the key."""
    for index in indexes:
        found = index.get(key, MISSING)
        if found is not MISSING:
            return found
    return MISSING
