"""Running count: each word of a text next to how often it has come by now, in a file.

Shows a file as source and another as sink, and state per key (`stateful_map`). It is the flow to
kill: with recovery the file comes out the same, however often the run is stopped on its way.

Run it from the top of the project, on the novels in ``examples/data`` or on a text of your own::

    python -m engine.run examples.running_count:flow
    python -m engine.run 'examples.running_count:counts("my.txt", "mine.txt")'

The README tells how to kill it and go on.
"""

from __future__ import annotations

from pathlib import Path

import engine.operators as op
from engine.connectors.files import FileSink, FileSource
from engine.dataflow import Dataflow
from examples.wordcount import NOVELS, words_of


def counts(path: str | Path = NOVELS, out: str | Path = "counts.txt") -> Dataflow:
    """Make a flow that writes the words of a text, in their order, with their counts so far.

    Args:
        path: A text file in UTF-8.
        out: The file to write.
    """
    flow = Dataflow("running_count")
    lines = op.input("lines", flow, FileSource(path))
    words = op.flat_map("words", lines, words_of)
    keyed = op.key_on("word", words, lambda word: word)
    counted = op.stateful_map("count", keyed, with_count)
    op.output("out", counted, FileSink(out))
    return flow


def with_count(before: int | None, word: str) -> tuple[int, str]:
    """How often a word has come, as its new state and in a line of text."""
    count = (before or 0) + 1
    return count, f"{word} {count}"


flow = counts()
