"""What moves between steps: batches, and how to cut them up for an exchange.

A batch is a list of records today. Whatever moves batches about uses only the functions below, so
that another kind (columns, say) can come as one more `BatchKind`.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import getsizeof
from typing import Any, Protocol, TypeAlias

from engine.errors import UserCodeError
from engine.keys import key_group, owner
from engine.operators._keys import check_key, refuse_unkeyed
from engine.runtime._ids import WorkerIndex

Batch: TypeAlias = list[Any]
"""A batch as kernels see it."""

Owners: TypeAlias = Callable[[Any], int]
"""Gives the worker that a record goes to."""


class BatchKind(Protocol):
    """What the runtime needs to know of a kind of batch."""

    def nbytes(self, batch: Any) -> int:
        """An estimate of its size in memory."""
        ...

    def partition(self, batch: Any, owners: Owners, workers: int) -> list[Any]:
        """Its parts by worker, records in the order they had; an empty part may be falsy."""
        ...

    def pieces(self, batch: Any, records: int) -> list[Any]:
        """Pieces of at most so many records, in order."""
        ...

    def deal(self, batch: Any, first: WorkerIndex, workers: int) -> list[Any]:
        """Equal parts by worker, counting from `first`."""
        ...


class ListKind:
    """Lists of records."""

    def nbytes(self, batch: list[Any]) -> int:
        """From the size of a few records, with what is in them if they are tuples.

        What these refer to is not followed: whoever wants a bound has one on records too.
        """
        if not batch:
            return 0
        sample = batch[:: max(1, len(batch) // 4)]
        nbytes = 0
        for record in sample:
            nbytes += getsizeof(record)
            if record.__class__ is tuple:
                for part in record:
                    nbytes += getsizeof(part)
        return nbytes * len(batch) // len(sample)

    def partition(self, batch: list[Any], owners: Owners, workers: int) -> list[list[Any]]:
        """As in `BatchKind`."""
        parts: list[list[Any]] = [[] for _ in range(workers)]
        if isinstance(owners, KeyOwners):
            owners.divide(batch, parts)
        else:
            for record in batch:
                parts[owners(record)].append(record)
        return parts

    def pieces(self, batch: list[Any], records: int) -> list[list[Any]]:
        """As in `BatchKind`."""
        return [batch[at : at + records] for at in range(0, len(batch), records)]

    def deal(self, batch: list[Any], first: WorkerIndex, workers: int) -> list[list[Any]]:
        """As in `BatchKind`."""
        return [batch[(i - first) % workers :: workers] for i in range(workers)]


_LISTS = ListKind()


def kind_of(_batch: Any) -> BatchKind:
    """The kind of a batch."""
    return _LISTS


class KeyOwners:
    """Which worker owns the key of a record. Call it with the record.

    Remembers a bounded number of keys, because hashing one costs more than a look-up.
    """

    _REMEMBERED_MAX = 1 << 17

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._owners: dict[Any, int] = {}

    def __call__(self, record: Any) -> int:
        """The index of the worker."""
        parts: list[list[Any]] = [[] for _ in range(self._workers)]
        self.divide([record], parts)
        return next(index for index, part in enumerate(parts) if part)

    def divide(self, batch: list[Any], parts: list[list[Any]]) -> None:
        """Add each record to the part of the worker that owns its key."""
        get, adders = self._owners.get, [part.append for part in parts]
        for record in batch:
            if record.__class__ is not tuple or len(record) != 2:
                refuse_unkeyed(record)
            key = record[0]
            # `True` and 1.0 would be found as 1 in the dict, so only plain texts skip the check.
            if key.__class__ is not str:
                check_key(key)
            index = get(key)
            if index is None:
                index = self._find(key)
            adders[index](record)

    def _find(self, key: Any) -> int:
        index = owner(key_group(key), self._workers)
        if len(self._owners) >= self._REMEMBERED_MAX:
            self._owners.clear()
        self._owners[key] = index
        return index


class ForgivingKeyOwners(KeyOwners):
    """As `KeyOwners`, before a step that goes on after errors: it leaves out what has no key.

    So such records go to the first worker.
    """

    def divide(self, batch: list[Any], parts: list[list[Any]]) -> None:
        """As in `KeyOwners`."""
        tried: list[list[Any]] = [[] for _ in parts]
        try:
            super().divide(batch, tried)
        except UserCodeError:
            for record in batch:
                self._add(record, parts)
        else:
            for part, records in zip(parts, tried, strict=True):
                part.extend(records)

    def _add(self, record: Any, parts: list[list[Any]]) -> None:
        try:
            super().divide([record], parts)
        except UserCodeError:
            parts[0].append(record)
