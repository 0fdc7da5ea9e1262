"""What `python -m engine.recovery` writes to standard output: lines, tables, sizes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.recovery._admin import StateRecord, StoreSummary, as_json, shown, shown_time
from engine.recovery._savepoint import Savepoint

_KILO = 1000


class OutputError(Exception):
    """Standard output can't be written; its `OSError` is the cause."""


def write(line: str) -> None:
    """Write a line; what the terminal's encoding lacks is escaped.

    Raises:
        OutputError: It can't be written.
    """
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        return  # The process was started without one.
    encoding = _encoding()
    try:
        sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    except OSError as ex:
        raise OutputError from ex


def write_json(record: dict[str, Any]) -> None:
    """Write an object as a line of JSON. Errors as `write`."""
    write(json.dumps(record, ensure_ascii=_encoding().lower() != "utf-8"))


def _encoding() -> str:
    """That of standard output, which may be no real file."""
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def write_table(rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> None:
    """Write rows with their columns below each other.

    Args:
        rows: Each as long as the first.
        numbers: Which columns are aligned to the right.
    """
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [
            cell.rjust(width) if number in numbers else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        write("  ".join(cells).rstrip())


def plain(text: str) -> str:
    r"""A text on one line: as it is, or as Python writes it if it holds what isn't printable.

    >>> plain("flow.out"), plain("flow.\u200b")
    ('flow.out', "'flow.\\u200b'")
    """
    return text if text.isprintable() else repr(text)


def size(nbytes: int) -> str:
    """A number of bytes, in a unit that suits it.

    >>> size(17), size(60_341), size(5_000_000_000)
    ('17 B', '60.3 kB', '5.0 GB')
    """
    amount, units = float(nbytes), ["B", "kB", "MB", "GB", "TB"]
    while amount >= _KILO and len(units) > 1:
        amount /= _KILO
        units.pop(0)
    return f"{nbytes} B" if units[0] == "B" else f"{amount:.1f} {units[0]}"


def counted(number: int, noun: str) -> str:
    """A number and what it counts.

    >>> counted(1, "key"), counted(2000, "key")
    ('1 key', '2,000 keys')
    """
    return f"{number:,} {noun}" + ("s" if number != 1 else "")


def time_of(time_s: float) -> str:
    """Seconds since 1970 UTC as a date, without fractions."""
    return shown_time(int(time_s) * 1_000_000)


def write_summary(found: StoreSummary) -> None:
    """Write what `ls` shows of a store."""
    newest = found.manifest
    write_table(
        [
            ("flow", plain(newest.flow_id)),
            ("store", newest.store_id),
            *(
                [("took over", f"the sinks of store {newest.took_over}")]
                if newest.took_over
                else []
            ),
            ("epoch", str(newest.epoch)),
            ("written", f"{time_of(newest.time_s)}, by generation {newest.generation}"),
            ("workers", str(newest.workers)),
            ("size", f"{size(found.table_bytes)} of tables, {size(found.log_bytes)} of logs"),
        ]
    )
    _write_older(found)
    rows = [("step", "kind", "keys", "partitions")]
    for step_id, entry in sorted(newest.steps.items()):
        keys, partitions = found.keys[step_id], found.partitions[step_id]
        rows.append(
            (plain(step_id), plain(entry.kind), f"{keys:,}" if keys else "-", _count(partitions))
        )
    write("")
    write_table(rows, numbers=(2, 3))


def _write_older(found: StoreSummary) -> None:
    if not found.older:
        return
    write("")
    write(f"epochs {found.older[0].epoch} to {found.manifest.epoch} can be restored; copied at")
    write_table(((str(kept.epoch), time_of(kept.time_s)) for kept in found.older), numbers=(0,))


def _count(number: int) -> str:
    return f"{number:,}" if number else "-"


def write_savepoints(savepoints: Iterable[tuple[str, Savepoint]]) -> None:
    """Write what `ls` shows of a folder of savepoints."""
    rows = [("savepoint", "epoch", "flow", "saved", "size")]
    for name, savepoint in savepoints:
        manifest = savepoint.manifest
        rows.append(
            (
                plain(name),
                str(manifest.epoch),
                plain(manifest.flow_id),
                time_of(manifest.time_s),
                size(savepoint.nbytes),
            )
        )
    write_table(rows, numbers=(1, 4))


def write_versions(rows: Mapping[tuple[str, int], int]) -> None:
    """Write how many keys there are of each version, for steps that have had more than one."""
    evolved = {step_id for step_id, version in rows if version != 1}
    for (step_id, version), number in sorted(rows.items()):
        if step_id in evolved:
            write(f"{plain(step_id)}: {counted(number, 'key')} of version {version}")


def write_state(record: StateRecord) -> None:
    """Write a state as Python would: ``key: state``."""
    notes: list[str] = []
    if record.heard_us is not None:
        notes.append(f"last record {shown_time(record.heard_us)}")
    elif record.due_us is not None:
        notes.append(f"timer due {shown_time(record.due_us)}")
    if record.version != 1:
        notes.append(f"version {record.version}")
    key = f"partition {record.key!r}" if record.of_partition else shown(record.key)
    write(f"{key}: {shown(record.state)}" + (f"  ({', '.join(notes)})" if notes else ""))


def json_of(record: StateRecord) -> dict[str, Any]:
    """A state as `export` writes it."""
    name = "partition" if record.of_partition else "key"
    found = {"step": record.step_id, name: as_json(record.key), "state": as_json(record.state)}
    if record.heard_us is not None:
        found["last_record"] = shown_time(record.heard_us)
    elif record.due_us is not None:
        found["due"] = shown_time(record.due_us)
    if record.version != 1:
        found["version"] = record.version
    return found
