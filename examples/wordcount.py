"""Word count: how often each word comes in three novels (2.2 MB of text, in ``examples/data``).

Shows a file as source, one record becoming many (`flat_map`), counting per key (`count_final`),
and how to bring the results of all keys together in order to rank them.

Run it from the top of the project, with the twenty most frequent words or with more of them, or on
a text of your own::

    python -m engine.run examples.wordcount:flow
    python -m engine.run 'examples.wordcount:ranking(most=100)'
    python -m engine.run 'examples.wordcount:ranking("my.txt")'
"""

from __future__ import annotations

import re
from pathlib import Path

import engine.operators as op
from engine.connectors.files import FileSource
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow

NOVELS = Path(__file__).parent / "data" / "austen.txt"
A_WORD = re.compile("[a-z]+")


def ranking(path: str | Path = NOVELS, most: int = 20) -> Dataflow:
    """Make a flow that prints the most frequent words of a text, as ``uniq -c`` would print them.

    Args:
        path: A text file in UTF-8.
        most: How many words to print.
    """
    flow = Dataflow("wordcount")
    lines = op.input("lines", flow, FileSource(path))
    words = op.flat_map("words", lines, words_of)
    # The count of a word is known when the text has ended, so this emits nothing before.
    counts = op.count_final("count", words, lambda word: word)
    # A ranking needs all counts in one place: under one key.
    together = op.key_on("together", counts, lambda _count: "all words")
    gathered = op.fold_final("gather", together, list[tuple[str, int]], appended)
    all_counts = op.key_rm("unkey", gathered)
    ranked = op.flat_map("rank", all_counts, lambda counts: sorted(counts, key=rank_of)[:most])
    lines_out = op.map("line", ranked, line_of)
    op.output("out", lines_out, StdOutSink())
    return flow


def words_of(line: str) -> list[str]:
    """The words of a line: its runs of the letters a to z, in lower case."""
    return A_WORD.findall(line.lower())


def appended(counts: list[tuple[str, int]], count: tuple[str, int]) -> list[tuple[str, int]]:
    """The counts with one more."""
    counts.append(count)
    return counts


def rank_of(count: tuple[str, int]) -> tuple[int, str]:
    """What to sort by: the highest count first, and equal counts by the alphabet."""
    word, times = count
    return (-times, word)


def line_of(count: tuple[str, int]) -> str:
    """A count as a line of text."""
    word, times = count
    return f"{times:7} {word}"


flow = ranking()
