"""The flow of the drills: every kind of state and of exactly-once sink, each line of it certain.

What comes out does not depend on when a batch is read or an epoch closes, so two runs can be
compared byte for byte. (Only timers fire as they please: of what they give the order is open.)
Where its files are and how long its input takes comes from the environment, so that the command
line can run it as it is.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import engine.operators as op
from engine.connectors import FixedPartitionedSource, StatefulSourcePartition
from engine.connectors.files import CSVSource, DirSink, FileSink, FileSource
from engine.connectors.sqlite import SqliteSink
from engine.dataflow import Dataflow

HERE = Path(os.environ["DRILL_FOLDER"])
PAUSE = timedelta(milliseconds=float(os.environ.get("DRILL_PAUSE_MS", "0")))
BATCH = 20
JOIN_LAG = int(os.environ["DRILL_LINES"]) // 2
"""How many lines the second side of the join is behind the first: so many keys wait."""
TIMER_DELAY = timedelta(milliseconds=3)
TIMER_FILES = 5
GROUPS = 4


class Paced(FixedPartitionedSource[Any, Any]):
    """Another source, with a pause after each batch.

    Args:
        source: The other one.
        held_for: A folder; the source ends only when its files have as many lines as were read.
    """

    def __init__(
        self, source: FixedPartitionedSource[Any, Any], held_for: Path | None = None
    ) -> None:
        self._source = source
        self._held_for = held_for

    def list_parts(self) -> list[str]:
        return self._source.list_parts()

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> PacedPartition:
        part = self._source.build_part(step_id, for_part, resume_state)
        return PacedPartition(part, self._held_for)


class PacedPartition(StatefulSourcePartition[Any, Any]):
    def __init__(
        self, part: StatefulSourcePartition[Any, Any], held_for: Path | None = None
    ) -> None:
        self._part = part
        self._held_for = held_for
        self._awake: datetime | None = None

    def next_batch(self) -> list[Any]:
        self._awake = datetime.now(UTC) + PAUSE
        try:
            return list(self._part.next_batch())
        except StopIteration:
            if self._held_for is None or _lines_in(self._held_for) >= _lines_wanted():
                raise
            self._awake = datetime.now(UTC) + TIMER_DELAY
            return []

    def next_awake(self) -> datetime | None:
        return self._awake

    def snapshot(self) -> Any:
        return self._part.snapshot()

    def close(self) -> None:
        self._part.close()


def _lines_in(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.iterdir())


def _lines_wanted() -> int:
    return (HERE / "timed.txt").read_bytes().count(b"\n")


class Delayed(op.StatefulBatchLogic[str, str, tuple[str, datetime]]):
    """Gives its only value away when a timer fires and never otherwise: a lost timer loses it."""

    def __init__(self, resume: tuple[str, datetime] | None) -> None:
        self._value, self._due = resume or ("", datetime.now(UTC) + TIMER_DELAY)

    def on_batch(self, values: list[str]) -> tuple[list[str], bool]:
        [self._value] = values
        return [], self.RETAIN

    def on_notify(self) -> tuple[list[str], bool]:
        return [self._value], self.DISCARD

    def notify_at(self) -> datetime:
        return self._due

    def snapshot(self) -> tuple[str, datetime]:
        return self._value, self._due


def word_and_count(count: int | None, line: str) -> tuple[int, str]:
    count = (count or 0) + 1
    return count, f"{line} {count}"


def number_of(line: str) -> int:
    return int(line.split()[1])


def group_of(line: str) -> str:
    return str(number_of(line) * 7 % 11 % GROUPS)


def collected(pair: tuple[str, list[str]]) -> tuple[str, str]:
    return pair[0], " ".join([pair[0], *(str(number_of(line)) for line in pair[1])])


def added(total: int, row: dict[str, str]) -> int:
    return total + int(row["amount"])


flow = Dataflow("drill")
lines = op.input("in", flow, Paced(FileSource(HERE / "in.txt", batch_size=BATCH)))
words = op.key_on("word", lines, lambda line: line.split()[0])

counted = op.stateful_map("count", words, word_and_count)
op.output("file", counted, FileSink(HERE / "out.txt"))
rows = op.map("row", counted, lambda pair: {"word": pair[0], "line": pair[1]})
op.output("table", rows, SqliteSink(HERE / "out.db", table="counts", columns=["word", "line"]))

totals = op.count_final("total", lines, lambda line: line.split()[0])
shown = op.map("show", totals, lambda pair: ("all", f"{pair[0]} {pair[1]}"))
op.output("totals", shown, FileSink(HERE / "totals.txt"))

sooner = op.key_on("sooner", lines, number_of)
later = op.map("later", sooner, lambda pair: (pair[0] - JOIN_LAG, pair[1]))
joined = op.join("join", sooner, later)
told = op.map("told", joined, lambda pair: ("all", f"{pair[0]}: {pair[1][0]} then {pair[1][1]}"))
op.output("joined", told, FileSink(HERE / "joined.txt"))

groups = op.key_on("group", lines, group_of)
gathered = op.collect("gather", groups, timedelta(hours=1), 7)
listed = op.map("listed", gathered, collected)
op.output("lists", listed, DirSink(HERE / "lists", GROUPS, assign_file=int))

bookings = op.input("bookings", flow, Paced(CSVSource(HERE / "in.csv", batch_size=BATCH)))
accounts = op.key_on("account", bookings, lambda row: row["account"])
sums = op.fold_final("sum", accounts, int, added)
texts = op.map("text", sums, lambda pair: ("all", f"{pair[0]} {pair[1]}"))
op.output("sums", texts, FileSink(HERE / "sums.txt"))

timed = FileSource(HERE / "timed.txt", batch_size=BATCH)
ticks = op.input("ticks", flow, Paced(timed, HERE / "ticks"))
# Each line is a key of its own, so that nothing but its timer ever touches it again.
keyed = op.key_on("tick", ticks, str)
delayed = op.stateful_batch("delay", keyed, Delayed)
op.output("ticked", delayed, DirSink(HERE / "ticks", TIMER_FILES, assign_file=int))
