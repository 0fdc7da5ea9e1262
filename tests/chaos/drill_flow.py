"""The flow of the drill: keyed state into a file, and exactly once into a database.

Reads where its files are from the environment, so that the command line can run it as it is.
"""

from __future__ import annotations

import os
from pathlib import Path

import engine.operators as op
from engine.connectors.files import FileSink, FileSource
from engine.connectors.sqlite import SqliteSink
from engine.dataflow import Dataflow

HERE = Path(os.environ["DRILL_FOLDER"])


def word_and_count(count: int | None, line: str) -> tuple[int, str]:
    count = (count or 0) + 1
    return count, f"{line} {count}"


flow = Dataflow("drill")
lines = op.input("in", flow, FileSource(HERE / "in.txt", batch_size=20))
words = op.key_on("word", lines, lambda line: line.split()[0])
counted = op.stateful_map("count", words, word_and_count)
op.output("file", counted, FileSink(HERE / "out.txt"))
rows = op.map("row", counted, lambda pair: {"word": pair[0], "line": pair[1]})
op.output("table", rows, SqliteSink(HERE / "out.db", table="counts", columns=["word", "line"]))
totals = op.count_final("total", lines, lambda line: line.split()[0])
shown = op.map("show", totals, lambda pair: ("all", f"{pair[0]} {pair[1]}"))
op.output("totals", shown, FileSink(HERE / "totals.txt"))
