"""Text on processes: the paragraph of Jane Austen that is the hardest to read, and the easiest.

Shows `task` with `executor="process"`: what computes for long runs on all processors, beside the
flow, and lists of records (`batch`) make each trip to a process worth it. The function is at the
top of a module, where the processes find it by name.

Run it from the top of the project::

    python -m engine.run examples.text_on_processes:flow
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import engine.operators as op
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow
from engine.operators.tasks import Batching, task
from engine.testing import TestingSource

TEXT = Path(__file__).with_name("data") / "austen.txt"
WORDS_MIN = 60
"""Shorter paragraphs are talk."""


def paragraphs(count: int) -> Iterator[str]:
    """The first so many paragraphs that are long enough."""
    found = re.split(r"\n\s*\n", TEXT.read_text(encoding="utf-8"))
    long = (" ".join(text.split()) for text in found if len(text.split()) >= WORDS_MIN)
    for _, paragraph in zip(range(count), long, strict=False):
        yield paragraph


def reading_ease(text: str) -> float:
    """Rudolf Flesch's score (1948): 100 is easy, 0 is hard. Syllables are guessed by vowels."""
    words = re.findall(r"[A-Za-z']+", text)
    sentences = max(1, len(re.findall(r"[.!?]+", text)))
    syllables = sum(max(1, len(re.findall(r"[aeiouy]+", word.lower()))) for word in words)
    return 206.835 - 1.015 * len(words) / sentences - 84.6 * syllables / len(words)


def scored(texts: list[str]) -> list[tuple[str, tuple[int, str]]]:
    """The score of each paragraph, with how it begins. It runs in a process of the pool."""
    return [("all", (round(reading_ease(text)), text[:44])) for text in texts]


def flow(count: int = 2000) -> Dataflow:
    """The flow.

    Args:
        count: How many paragraphs.
    """
    flow = Dataflow("text_on_processes")
    texts = op.input("paragraphs", flow, TestingSource(paragraphs(count), batch_size=50))
    batch = Batching(size=50, linger=timedelta(milliseconds=10))
    scores = task("score", texts, scored, executor="process", batch=batch, order="none")
    hardest = op.min_final("hardest", scores.ok)
    easiest = op.max_final("easiest", scores.ok)
    either = op.merge(
        "either",
        op.map("hard_line", hardest, lambda pair: f"hardest: {pair[1][1]}... ({pair[1][0]})"),
        op.map("easy_line", easiest, lambda pair: f"easiest: {pair[1][1]}... ({pair[1][0]})"),
    )
    op.output("out", either, StdOutSink())
    return flow
