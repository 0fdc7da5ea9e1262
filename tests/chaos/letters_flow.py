"""The flow of the tests that kill runs with dead letters: numbers, some of which are bad.

``LETTERS`` says where letters go: a file of JSON lines, or the store; or that the first step calls
its function as tasks, with two tries each. ``CURED`` says that nothing is bad any more. The input
is slow, so that there is something to kill.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

import engine.operators as op
from engine.clock import utc_now
from engine.connectors import FixedPartitionedSource, StatefulSourcePartition
from engine.connectors.files import FileSink
from engine.dataflow import Dataflow
from engine.operators.tasks import Exponential, Retry, task

HERE = Path(os.environ["DRILL_FOLDER"])
CURED = "CURED" in os.environ
NUMBERS = 600
PARTS = 3
BATCH = 5


class Numbers(FixedPartitionedSource[int, int]):
    def list_parts(self) -> list[str]:
        return [f"p{n}" for n in range(PARTS)]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> NumbersPart:
        return NumbersPart(int(for_part[1:]), resume_state or 0)


class NumbersPart(StatefulSourcePartition[int, int]):
    def __init__(self, part: int, at: int) -> None:
        self._numbers = range(part, NUMBERS, PARTS)
        self._at = at

    def next_batch(self) -> list[int]:
        if self._at >= len(self._numbers):
            raise StopIteration
        self._at += BATCH
        return list(self._numbers[self._at - BATCH : self._at])

    def next_awake(self) -> datetime:
        return utc_now() + timedelta(milliseconds=15)

    def snapshot(self) -> int:
        return self._at


def early(number: int) -> tuple[str, int]:
    """Raises for one in six."""
    if number % 6 == 5 and not CURED:
        raise ValueError(number)
    return str(number % 4), number


def late(count: int | None, number: int) -> tuple[int, str]:
    """Raises for one in seven."""
    if number % 7 == 0 and not CURED:
        raise ValueError(number)
    return (count or 0) + 1, f"{number}"


flow = Dataflow("letters", on_error="dead_letter")
source = op.input("in", flow, Numbers())
if os.environ["LETTERS"] == "tasks":
    tries = Retry(2, Exponential(timedelta(milliseconds=1)))
    numbers = task("early", source, early, executor="thread", order="none", retry=tries).ok
else:
    numbers = op.map("early", source, early)
counted = op.stateful_map("late", numbers, late)
op.output("out", counted, FileSink(HERE / "out.txt"))
if os.environ["LETTERS"] == "file":
    letters = op.dead_letters("letters", flow)
    lines = op.map("line", letters, lambda letter: (letter.letter_id, letter.to_json()))
    op.output("dead", lines, FileSink(HERE / "dead.jsonl"))
