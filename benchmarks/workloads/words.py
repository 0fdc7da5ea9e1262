"""W2: split lines into words and count them; the counts come out at the end of the input.

The words are drawn from 10,000 by Zipf's law, ten to a line, a hundred lines to a batch.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from benchmarks.contenders import BARE, BARE_UDF
from benchmarks.feeds import Batch, split
from benchmarks.workloads._throughput import Emit, Throughput

DISTINCT_WORDS = 10_000
WORDS_PER_LINE = 10
LINES_PER_BATCH = 100


def split_line(line: str) -> list[str]:
    return line.split()


def word_itself(word: str) -> str:
    return word


def graph(op: Any, lines: Any) -> Any:
    words = op.flat_map("split", lines, split_line)
    return op.count_final("count", words, word_itself)


def loop_udf(emit: Emit, batches: Iterable[Batch]) -> None:
    counts: dict[str, int] = {}
    get = counts.get
    for batch in batches:
        for line in batch:
            for word in split_line(line):
                key = word_itself(word)
                counts[key] = get(key, 0) + 1
    emit(list(counts.items()))


def loop_inlined(emit: Emit, batches: Iterable[Batch]) -> None:
    counts: dict[str, int] = {}
    get = counts.get
    for batch in batches:
        for line in batch:
            for word in line.split():
                counts[word] = get(word, 0) + 1
    emit(list(counts.items()))


def _feeds(records: int) -> list[list[Batch]]:
    vocabulary = [f"w{rank:05d}" for rank in range(1, DISTINCT_WORDS + 1)]
    weights = list(accumulate(1 / rank for rank in range(1, DISTINCT_WORDS + 1)))
    words = random.Random(1).choices(vocabulary, cum_weights=weights, k=records)
    lines = [" ".join(line) for line in split(words, WORDS_PER_LINE)]
    return [split(lines, LINES_PER_BATCH)]


WORKLOADS = (
    Throughput(
        name="w2-words",
        title="W2 split lines, count words; 10,000 distinct",
        records=1_000_000,
        records_quick=50_000,
        feeds=_feeds,
        loops={BARE_UDF: loop_udf, BARE: loop_inlined},
        graph=graph,
    ),
)
