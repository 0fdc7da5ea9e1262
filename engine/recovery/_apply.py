"""Brings committed changes from the log into the table, in slices, and then makes them durable.

A slice is one chunk, so that a worker can do as many as it has time for between two batches. What
was committed before a round begins is merged, so that a key that changes in every epoch is written
once: therefore a round waits until there are many bytes. Nothing here needs to survive a crash:
until the table is flushed together with the row that says how far it has come, the log is kept, and
a recovery applies it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from operator import not_
from typing import Any, Final

from engine.recovery._changes import Chunk
from engine.recovery._codec import Codec
from engine.recovery._ids import Epoch, StepNumber
from engine.recovery._log import LogWriter
from engine.recovery._overlay import Layer, Overlay
from engine.recovery._rows import (
    APPLIED_KEY,
    PARTITION,
    STATE,
    TIMER,
    after_prefix,
    due_of,
    step_prefix,
    timer_key,
)
from engine.recovery._table import Row, Table
from engine.recovery._worker_files import Applied, encode_applied

_EMPTY_EPOCHS: Final = 100


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """When changes are applied."""

    merge_bytes: int = 24 << 20
    """Wait for this many bytes before applying any, unless there is nothing else to do."""
    waiting_bytes_max: int = 32 << 20
    """More should not wait: a restart has to read them, and they take memory."""
    flush_bytes: int = 24 << 20
    """Make the table durable after this many bytes of log."""
    files_max: int = 16
    """Or when the log has more files. Each start begins one, however little it goes on to write."""


class Applier:
    """Applies one worker's log to its table.

    Args:
        table: Where to.
        overlay: What is to be applied.
        applied: What the table holds so far.
        codec: For the rows.
        step_ids: For errors, by number.
        options: When.
    """

    def __init__(
        self,
        table: Table,
        overlay: Overlay,
        applied: Applied,
        codec: Codec,
        step_ids: Mapping[StepNumber, str],
        options: ApplyOptions,
    ) -> None:
        self.applied = applied
        self.flushed = applied.epoch
        """Up to this epoch the table would hold all changes after a crash."""
        self._table = table
        self._overlay = overlay
        self._codec = codec
        self._step_ids = step_ids
        self._options = options
        self._round: Iterator[None] | None = None
        self._flushing: Epoch | None = None
        # What a recovery has found in the log is yet to be flushed too.
        self._flushed_bytes = -overlay.waiting.nbytes

    @property
    def overdue(self) -> bool:
        """Whether more waits than should."""
        return self._overlay.nbytes > self._options.waiting_bytes_max

    def slice(self, log: LogWriter, committed: Epoch, *, eager: bool) -> bool:
        """Do about a millisecond's work; False if there is none.

        Args:
            log: The log.
            committed: The last epoch that was committed.
            eager: Don't wait for more epochs to merge.
        """
        if self._round is None:
            waiting = self._overlay.waiting
            if not waiting.chunks:
                self._pass_empty(committed, eager=eager)
                return False
            worth_it = waiting.nbytes >= self._options.merge_bytes
            if not (eager or worth_it or log.files > self._options.files_max):
                return False
            self._round = self._apply(self._overlay.begin_applying(), committed)
        if next(self._round, self) is self:
            self._round = None
        return True

    def finish(self, committed: Epoch) -> None:
        """Apply all that waits, at one go: the table holds the last committed epoch then."""
        for _ in self._round or ():
            pass
        self._round = None
        if self._overlay.waiting.chunks:
            for _ in self._apply(self._overlay.begin_applying(), committed):
                pass
        self._pass_empty(committed, eager=True)

    def _pass_empty(self, committed: Epoch, *, eager: bool) -> None:
        """Note epochs without changes now and then, so that their log can go."""
        behind = committed - self.applied.epoch
        if behind and (eager or behind >= _EMPTY_EPOCHS):
            self._mark(replace(self.applied, epoch=committed))

    def _apply(self, layer: Layer, through: Epoch) -> Iterator[None]:
        """Write the newest state of each key of a layer, then how far the table has come."""
        written: dict[tuple[bytes, StepNumber], set[Any]] = {}
        for chunk in reversed(layer.chunks):
            seen = written.setdefault((chunk.kind, chunk.step), set())
            self._write(chunk, seen)
            yield
        self._mark(replace(self.applied, epoch=through))
        self._overlay.end_applying()

    def _write(self, chunk: Chunk, seen: set[Any]) -> None:
        """Write what of a chunk isn't in a newer one."""
        keys, chosen = chunk.keys, None
        newer = [*map(seen.__contains__, keys)]
        if any(newer):
            chosen = [*map(not_, newer)]
            keys = [*compress(keys, chosen)]
        deleted = [key for key in chunk.deleted if key not in seen]
        if not keys and not deleted:
            return
        seen.update(keys, deleted)
        step_id = self._step_ids.get(chunk.step, f"number {chunk.step}")
        values, dues = chunk.table_values(self._codec, step_id, chosen) if keys else ((), ())
        table_keys, deletes = chunk.table_keys(keys), chunk.table_keys(deleted)
        puts: list[Row] = list(zip(table_keys, values, strict=True))
        if chunk.kind == STATE and (chunk.has_timers or chunk.step in self.applied.timed_steps):
            self._add_timers(chunk.step, table_keys, dues, puts, deletes)
        self._table.write(puts, deletes)

    def _add_timers(
        self,
        step: StepNumber,
        keys: list[bytes],
        dues: Sequence[int | None],
        puts: list[Row],
        deletes: list[bytes],
    ) -> None:
        """Add the index rows of new timers, and the removal of those of old ones."""
        if step not in self.applied.timed_steps:
            # Before the first index row, so that a crash in between does no harm.
            self._mark(replace(self.applied, timed_steps=self.applied.timed_steps | {step}))
        old = map(due_of, self._table.get_many(keys + deletes))
        new = (*dues, *([None] * len(deletes)))
        for key, old_due, new_due in zip(keys + deletes, old, new, strict=True):
            if old_due is not None and old_due != new_due:
                deletes.append(timer_key(key, old_due))
            if new_due is not None and new_due != old_due:
                puts.append((timer_key(key, new_due), b""))

    def mark_generation(self, applied: Applied) -> None:
        """Note which generation uses the table from now on, and delete rows of dropped steps."""
        for number in applied.purged_steps - self.applied.purged_steps:
            for kind in (STATE, TIMER, PARTITION):
                prefix = step_prefix(kind, StepNumber(number))
                self._table.delete_range(prefix, after_prefix(prefix))
        self._mark(applied)

    def _mark(self, applied: Applied) -> None:
        self._table.write([(APPLIED_KEY, encode_applied(applied))], [])
        self.applied = applied

    def look_after_flush(self, log: LogWriter, committed: Epoch) -> None:
        """Begin a flush if enough was written since the last, and collect the log after one."""
        if self._flushing is None:
            unflushed = log.bytes_written - self._flushed_bytes
            enough = unflushed >= self._options.flush_bytes or log.files > self._options.files_max
            if enough and self.applied.epoch > self.flushed:
                self.begin_flush(log)
        elif self._table.flush_done():
            self._end_flush(log, committed)

    def begin_flush(self, log: LogWriter) -> None:
        """Begin to make what is applied durable, unless that is under way."""
        if self._flushing is None:
            self._flushing, self._flushed_bytes = self.applied.epoch, log.bytes_written
            self._table.begin_flush()

    def flush(self, log: LogWriter, committed: Epoch) -> None:
        """Make all that is applied durable, now."""
        self._flushing, self._flushed_bytes = self.applied.epoch, log.bytes_written
        self._table.flush()
        self._end_flush(log, committed)

    def _end_flush(self, log: LogWriter, committed: Epoch) -> None:
        if self._flushing is not None:
            self.flushed, self._flushing = self._flushing, None
        # The last committed epoch stays in the log: its kept rows may have to be published.
        log.collect(Epoch(min(self.flushed, committed - 1)))
