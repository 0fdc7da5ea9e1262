"""Fan-out and fan-in: the words of each book are counted in pieces, on all processors.

Shows subtasks. The task of a book submits one subtask for each of its chapters, and hands the
futures on to further subtasks, which add the counts up ten by ten: nobody waits until the last sum
is asked for. If a process dies, the chapter that it had is counted again.

Run it from the top of the project::

    python -m engine.run examples.fan_out:flow
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import engine.operators as op
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow
from engine.operators.tasks import TaskContext, TaskFuture, task
from engine.testing import TestingSource

TEXT = Path(__file__).with_name("data") / "austen.txt"
TOGETHER = 10
"""So many counts are added up at once."""


def books() -> list[str]:
    """Novels, each of which begins with its title in capitals and the name of who wrote it."""
    return re.split(r"\n(?=[A-Z ]+\n\n[Bb]y Jane Austen)", TEXT.read_text(encoding="utf-8"))


def counted(chapter: str) -> Counter[str]:
    """How often each long word is in a chapter. It runs in a process of the pool."""
    return Counter(word for word in re.findall(r"[a-z]+", chapter.lower()) if len(word) > 7)


def added(counts: list[Counter[str]]) -> Counter[str]:
    """The sum of some counts, which are futures where this is submitted."""
    return sum(counts, Counter[str]())


def favourites(book: str, ctx: TaskContext) -> tuple[str, list[tuple[str, int]]]:
    """The title of a book, and the words that are most often in it."""
    title, *chapters = re.split(r"\n(?:CHAPTER|Chapter) [0-9IVXL]+\n", book)
    counts: list[TaskFuture[Counter[str]]] = [ctx.submit(counted, each) for each in chapters]
    while len(counts) > 1:
        tens = [counts[i : i + TOGETHER] for i in range(0, len(counts), TOGETHER)]
        counts = [ctx.submit(added, ten) for ten in tens]
    return title.split("\n")[0].title(), counts[0].result().most_common(3)


def shown(found: tuple[str, list[tuple[str, int]]]) -> str:
    """A line for people."""
    title, words = found
    return f"{title}: " + ", ".join(f"{word} ({count})" for word, count in words)


def flow() -> Dataflow:
    """The flow."""
    flow = Dataflow("fan_out")
    texts = op.input("books", flow, TestingSource(books()))
    found = task("favourites", texts, favourites, executor="process")
    op.output("out", op.map("show", found.ok, shown), StdOutSink())
    return flow
