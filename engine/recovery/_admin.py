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

from engine.errors import StoreError
from engine.recovery._disk import Disk
from engine.recovery._ids import WorkerIndex
from engine.recovery._layout import StorePaths
from engine.recovery._manifest import Manifest
from engine.recovery._opening import WorkerSpot, view
from engine.recovery._overlay import Missing
from engine.recovery._savepoint import SavedFile, Savepoint, save_worker, write_savepoint
from engine.recovery._state_view import StateView, StoredState
from engine.recovery._store_folder import StoreFolder
from engine.recovery._table import Tables
from engine.recovery._worker_store import WorkerStore

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

    manifests: list[Manifest]
    keys: Counter[str] = field(default_factory=Counter[str])
    """How many keys of each step have a state."""
    partitions: Counter[str] = field(default_factory=Counter[str])
    """How many partitions of each step have a state."""
    table_bytes: int = 0
    log_bytes: int = 0


def summary(place: StorePlace) -> StoreSummary:
    """What a store holds; reads all keys to count them."""
    with opened(place) as folder:
        manifest = folder.started()
        found = StoreSummary(folder.manifests())
        for state in views(place, manifest):
            for step_id in manifest.steps:
                found.keys[step_id] += state.row_count(step_id)
                found.partitions[step_id] += len(state.partitions(step_id))
        shards = StorePaths(place.root).shards(manifest.shards)
        found.table_bytes = _size(place.disk, shards, "table")
        found.log_bytes = _size(place.disk, shards, "log")
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


def read_key(place: StorePlace, step_id: str, key: Any) -> StoredState | None:
    """The state of one key of a step.

    Raises:
        StoreError: The store can't be read, or has no such step.
    """
    with opened(place) as folder:
        manifest = folder.started()
        _require_step(manifest, step_id)
        for state in views(place, manifest):
            row = state.get_row(step_id, key)
            if not isinstance(row, Missing):
                return row
    return None


def export(place: StorePlace, step_ids: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """All states, as what JSON can hold.

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
                yield from _export_step(state, step_id)


def _export_step(state: StateView, step_id: str) -> Iterator[dict[str, Any]]:
    for key, row in state.scan_step(step_id):
        record = {"step": step_id, "key": as_json(key), "state": as_json(row.value)}
        if row.due_us is not None:
            record["due"] = shown_time(row.due_us)
        if row.version != 1:
            record["version"] = row.version
        yield record
    for name, part in state.partitions(step_id).items():
        yield {"step": step_id, "partition": name, "state": as_json(part.value)}


def as_json(value: Any) -> Any:
    """A value as JSON can hold it; what it can't hold exactly is told by its `repr`.

    >>> as_json({"a": [1, None]}), as_json((1, 2))
    ({'a': [1, None]}, {'repr': '(1, 2)'})
    """
    return value if _is_json(value) else {"repr": repr(value)}


def _is_json(value: Any) -> bool:
    kind = cast("type[Any]", type(value))
    if kind is float:
        return math.isfinite(value)
    if kind is list:
        return all(map(_is_json, cast("list[Any]", value)))
    if kind is dict:
        items = cast("dict[Any, Any]", value)
        return all(map(_is_text, items)) and all(map(_is_json, items.values()))
    return kind in {int, bool, type(None)} or _is_text(value)


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
    """Microseconds since 1970 UTC as a date, where there is one."""
    try:
        return (_EPOCH_START + timedelta(microseconds=time_us)).isoformat()
    except OverflowError:
        return f"{time_us} us"


def rename_step(place: StorePlace, old: str, new: str) -> None:
    """Give a stored step another id: for a flow in which its step was renamed.

    Raises:
        StoreError: There is no step of the old id, or one of the new id.
    """
    with opened(place) as folder:
        manifest = folder.started()
        _require_step(manifest, old)
        if new in manifest.steps:
            msg = f"{place.root} has a step {new!r} already"
            raise StoreError(msg)
        folder.change(
            place.time_s,
            steps={new if s == old else s: entry for s, entry in manifest.steps.items()},
            published={new if s == old else s: p for s, p in manifest.published.items()},
        )


def drop_step(place: StorePlace, step_id: str) -> None:
    """Forget a stored step; its rows are deleted at the next start.

    Raises:
        StoreError: There is no such step.
    """
    with opened(place) as folder:
        manifest = folder.started()
        _require_step(manifest, step_id)
        folder.change(
            place.time_s,
            steps={s: entry for s, entry in manifest.steps.items() if s != step_id},
            published={s: p for s, p in manifest.published.items() if s != step_id},
            dropped=(*manifest.dropped, manifest.steps[step_id].number),
        )


def _require_step(manifest: Manifest, step_id: str) -> None:
    if step_id not in manifest.steps:
        there = ", ".join(map(repr, sorted(manifest.steps))) or "none"
        msg = f"the store has no step {step_id!r}; it has: {there}"
        raise StoreError(msg)


def save(place: StorePlace, target: Path, name: str | None, *, sinks_settled: bool) -> Path:
    """Make a savepoint of a store; gives the path of its description.

    Args:
        place: The store.
        target: The folder for it, which may hold others.
        name: Its name; ``epoch-N`` if None.
        sinks_settled: Whether what exactly-once sinks kept for the last epoch is known to be out.

    Raises:
        StoreError: The store can't be opened, or a sink's rows are not settled.
    """
    with opened(place) as folder:
        folder.remove_leftovers()
        manifest = folder.change(place.time_s)
        saved: list[tuple[SavedFile, ...]] = []
        for index in range(manifest.workers):
            spot = WorkerSpot(place.disk, place.tables, place.root, WorkerIndex(index))
            store = WorkerStore.open(spot, manifest)
            try:
                saved.append(
                    save_worker(place.disk, store, target, kept_rows_settled=sinks_settled)
                )
            finally:
                store.close()
        savepoint = Savepoint(manifest, tuple(saved))
        return write_savepoint(place.disk, target, name or f"epoch-{manifest.epoch}", savepoint)
