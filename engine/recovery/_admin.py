"""Work on a store that no job has open: looking, mending its steps, savepoints.

What `python -m engine.recovery` does, without its command line. Nothing here runs a flow; what
changes a store begins a new generation, so that a job that still believes it runs is fenced.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from engine._stamps import unstamped
from engine.errors import StoreError
from engine.recovery._changes import StoredState
from engine.recovery._disk import Disk
from engine.recovery._ids import WorkerIndex
from engine.recovery._layout import StorePaths
from engine.recovery._manifest import Manifest, StepEntry
from engine.recovery._older_epochs import KeptEpoch, kept_epochs
from engine.recovery._opening import WorkerSpot, view
from engine.recovery._overlay import Missing
from engine.recovery._savepoint import (
    SavedWorker,
    Savepoint,
    check_target,
    save_worker,
    write_savepoint,
)
from engine.recovery._state_view import StateView
from engine.recovery._store_folder import StoreFolder
from engine.recovery._table import Tables
from engine.recovery._worker_store import WorkerStore

_INT_MAX = 1 << 4096
"""Python refuses to write numbers much longer than that in decimal."""
_EPOCH_START = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class StorePlace:
    """A store to work on, and what with."""

    disk: Disk
    tables: Tables
    root: Path
    token: str
    """Random."""
    time_s: float
    """Now, in seconds since 1970 UTC."""
    allow_pickle: bool = True
    """Whether states of users' own classes may be read."""


@contextmanager
def opened(place: StorePlace) -> Generator[StoreFolder, None, None]:
    """Lock a store. Errors as `StoreFolder.open`."""
    folder = StoreFolder.open(place.disk, place.root, place.token)
    try:
        yield folder
    finally:
        folder.close()


def views(place: StorePlace, manifest: Manifest) -> Iterator[StateView]:
    """Look at the stores of all workers, one after the other."""
    for index in range(manifest.workers):
        worker = WorkerIndex(index)
        if manifest.epoch == 0 and not place.disk.exists(
            StorePaths(place.root).worker(manifest.shards, worker)
        ):
            # Its process was never started.
            continue
        spot = WorkerSpot(place.disk, place.tables, place.root, worker)
        with view(spot, manifest, allow_pickle=place.allow_pickle) as state:
            yield state


@dataclass(slots=True)
class StoreSummary:
    """What a store holds, in short."""

    manifest: Manifest
    """The newest."""
    keys: Counter[str] = field(default_factory=Counter[str])
    """How many keys of each step have a state."""
    partitions: Counter[str] = field(default_factory=Counter[str])
    """How many partitions of each step have a state."""
    table_bytes: int = 0
    log_bytes: int = 0
    older: list[KeptEpoch] = field(default_factory=list[KeptEpoch])
    """Copies from which older epochs can be restored, and all epochs after the first of them."""


def summary(place: StorePlace) -> StoreSummary:
    """What a store holds; reads all keys to count them."""
    with opened(place) as folder:
        manifest = folder.started()
        found = StoreSummary(manifest)
        for state in views(place, manifest):
            for step_id in manifest.steps:
                found.keys[step_id] += state.row_count(step_id)
                found.partitions[step_id] += len(state.partition_names(step_id))
        shards = StorePaths(place.root).shards(manifest.shards)
        found.table_bytes = _size(place.disk, shards, "table")
        found.log_bytes = _size(place.disk, shards, "log")
        found.older = kept_epochs(place.disk, place.root, manifest)
        return found


def _size(disk: Disk, shards: Path, part: str) -> int:
    if not disk.exists(shards):
        return 0
    folders = [shards / name / part for name in disk.names(shards)]
    return sum(
        disk.size(folder / name)
        for folder in folders
        if disk.is_folder(folder)
        for name in disk.names(folder)
    )


def read_key(place: StorePlace, step_id: str, key: Any) -> StateRecord | None:
    """The state of one key of a step; None if there is none.

    Raises:
        StoreError: The store can't be read, or has no such step.
    """
    with opened(place) as folder:
        manifest = folder.started()
        _require_step(manifest, step_id)
        for state in views(place, manifest):
            row = state.get_row(step_id, key)
            if not isinstance(row, Missing):
                return _record(step_id, key, row)
    return None


@dataclass(frozen=True, slots=True)
class StateRecord:
    """A state that a store holds."""

    step_id: str
    key: Any
    """The key that it is of, or the name of the partition."""
    of_partition: bool
    state: Any
    due_us: int | None = None
    """When its timer is due, in microseconds since 1970 UTC. In a step with a time to live, when
    the engine looks at the key again.
    """
    version: int = 1
    heard_us: int | None = None
    """When its last record came, in microseconds since 1970 UTC, if the step has a time to live."""


def states(place: StorePlace, step_ids: Sequence[str] = ()) -> Iterator[StateRecord]:
    """All states, in no order.

    Args:
        place: The store.
        step_ids: Whose; of all steps if there are none.

    Raises:
        StoreError: The store can't be read, or has no such step.
    """
    with opened(place) as folder:
        manifest = folder.started()
        for step_id in step_ids:
            _require_step(manifest, step_id)
        for state in views(place, manifest):
            for step_id in step_ids or manifest.steps:
                yield from _states_of(state, step_id)


def _states_of(state: StateView, step_id: str) -> Iterator[StateRecord]:
    for key, row in state.scan_step(step_id):
        yield _record(step_id, key, row)
    for name, part in state.partitions(step_id).items():
        yield StateRecord(step_id, name, of_partition=True, state=part.value)


def _record(step_id: str, key: Any, row: StoredState) -> StateRecord:
    state, heard_us = unstamped(row.value)
    return StateRecord(
        step_id,
        key,
        of_partition=False,
        state=state,
        due_us=row.due_us,
        version=row.version,
        heard_us=heard_us,
    )


def as_json(value: Any) -> Any:
    """A value as JSON can hold it; what it can't hold exactly is told by its `repr`.

    >>> as_json({"a": [1, None]}), as_json((1, 2)), as_json({"repr": "x"})
    ({'a': [1, None]}, {'repr': '(1, 2)'}, {'repr': "{'repr': 'x'}"})
    """
    return value if _is_json(value) else {"repr": shown(value)}


def shown(value: Any) -> str:
    """A value as Python writes it.

    >>> shown(b"a"), shown(10**5000)[:40]
    ("b'a'", '<int: Exceeds the limit (4300 digits) fo')
    """
    try:
        return repr(value)
    except Exception as ex:  # noqa: BLE001 - it may be of a user's own class, which raises anything
        return f"<{type(value).__qualname__}: {ex}>"


def _is_json(value: Any) -> bool:
    kind = cast("type[Any]", type(value))
    if kind is float:
        return math.isfinite(value)
    if kind is int:
        return bool(abs(value) < _INT_MAX)
    if kind is list:
        return all(map(_is_json, cast("list[Any]", value)))
    if kind is dict:
        items = cast("dict[Any, Any]", value)
        # One key "repr" would be taken for what stands for another value.
        plain = set(items) != {"repr"} and all(map(_is_text, items))
        return plain and all(map(_is_json, items.values()))
    return kind in {bool, type(None)} or _is_text(value)


def _is_text(value: Any) -> bool:
    """Whether it is a text that can be written out: one with a lone surrogate can't."""
    if type(value) is not str:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown_time(time_us: int) -> str:
    """Microseconds since 1970 UTC as a date, where there is one.

    >>> shown_time(1_700_000_000_000_000)
    '2023-11-14 22:13:20 UTC'
    """
    try:
        when = _EPOCH_START + timedelta(microseconds=time_us)
    except OverflowError:
        return f"{time_us} us"
    return f"{when.replace(tzinfo=None).isoformat(' ')} UTC"


def rename_step(place: StorePlace, old: str, new: str) -> None:
    """Give a stored step another id: for a flow in which its step was renamed.

    Raises:
        StoreError: There is no step of the old id, or one of the new id, or it can't have that id.
    """
    with opened(place) as folder:
        manifest = folder.started()
        _require_step(manifest, old)
        _require_free(manifest, new)
        if _marked(place, manifest, old):
            msg = (
                f"sink {old!r} marks at its target, under its id, what is out, and a sink of "
                "another id can't read that; with its last rows out, it can be dropped and the new "
                "one begins with markers of its own: `drop-step`"
            )
            raise StoreError(msg)
        folder.change(
            place.time_s,
            steps={new if s == old else s: entry for s, entry in manifest.steps.items()},
        )


def drop_step(place: StorePlace, step_id: str, *, sinks_settled: bool = False) -> StepEntry:
    """Forget a stored step; its rows are deleted at the next start. Gives what it was.

    Args:
        place: The store.
        step_id: The step.
        sinks_settled: Whether what it kept, as a sink, for the last epoch is known to be out.

    Raises:
        StoreError: There is no such step, or it kept rows that are not settled.
    """
    with opened(place) as folder:
        manifest = folder.started()
        _require_step(manifest, step_id)
        if not sinks_settled and any(s.kept_rows(step_id) for s in views(place, manifest)):
            msg = (
                f"sink {step_id!r} has rows of epoch {manifest.epoch} that may not be out yet, and "
                "that would be lost. They are out if the last run has ended by itself or after "
                "SIGTERM"
            )
            raise UnsettledSinkError(msg)
        folder.change(
            place.time_s,
            steps={s: entry for s, entry in manifest.steps.items() if s != step_id},
            published={s: p for s, p in manifest.published.items() if s != step_id},
            dropped=(*manifest.dropped, manifest.steps[step_id].number),
        )
        return manifest.steps[step_id]


class UnsettledSinkError(StoreError):
    """A sink has rows of the last epoch of which nobody knows here whether they are out."""


def _marked(place: StorePlace, manifest: Manifest, step_id: str) -> bool:
    """Whether a sink keeps markers at its target."""
    return step_id in manifest.published or any(
        state.kept_rows(step_id) for state in views(place, manifest)
    )


def _require_step(manifest: Manifest, step_id: str) -> None:
    if step_id not in manifest.steps:
        there = ", ".join(map(repr, sorted(manifest.steps))) or "none"
        msg = f"the store has no step {step_id!r}; it has: {there}"
        raise StoreError(msg)


def _require_free(manifest: Manifest, step_id: str) -> None:
    """See that a step of the stored flow can get this id."""
    if step_id in manifest.steps:
        msg = f"the store has a step {step_id!r} already"
        raise StoreError(msg)
    flow_id, *names = step_id.split(".")
    if flow_id != manifest.flow_id or not all(names) or not names:
        msg = (
            f"no step of flow {manifest.flow_id!r} has the id {step_id!r}: its steps are called "
            f"{manifest.flow_id + '.step'!r}"
        )
        raise StoreError(msg)


def save(place: StorePlace, target: Path, name: str | None) -> tuple[Path, Savepoint]:
    """Make a savepoint of a store; gives the path of its description, and the savepoint.

    Args:
        place: The store.
        target: The folder for it, which may hold others.
        name: Its name; ``epoch-N`` if None.

    Raises:
        StoreError: The store can't be opened, or the savepoint not be made there.
    """
    with opened(place) as folder:
        before = folder.started()
        if before.epoch == 0:
            msg = f"no epoch of the store in {place.root} is durable yet: there is nothing to save"
            raise StoreError(msg)
        name = name or f"epoch-{before.epoch}"
        check_target(place.disk, target, name)
        for _ in views(place, before):
            # Before anything changes: each can be read.
            pass
        manifest = folder.change(place.time_s)
        folder.remove_leftovers()
        saved: list[SavedWorker] = []
        for index in range(manifest.workers):
            spot = WorkerSpot(place.disk, place.tables, place.root, WorkerIndex(index))
            store = WorkerStore.open(spot, manifest)
            try:
                saved.append(save_worker(place.disk, store, target))
            finally:
                store.close()
        savepoint = Savepoint(manifest, tuple(saved))
        return write_savepoint(place.disk, target, name, savepoint), savepoint
