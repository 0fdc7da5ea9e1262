"""The desk between those who ask for states and the workers that have them."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from engine.errors import CorruptStoreError
from engine.keys import key_group, owner
from engine.runtime._ids import Epoch, WorkerIndex
from engine.runtime._questions import Answer, Desk, Question, UnansweredError, answer_of


class Driven:
    """A desk, and who drives the run: a thread that does something whenever it is woken."""

    def __init__(self, on_question: Callable[[Desk, Question], None], workers: int = 1) -> None:
        self.woken = SimpleQueue[bool]()
        self.desk = Desk(lambda: self.woken.put(True))
        self.desk.begin(workers)
        self.asked: list[Question] = []
        self._on_question = on_question
        self.thread = threading.Thread(target=self._drive)
        self.thread.start()

    def _drive(self) -> None:
        while self.woken.get():
            self.desk.carry(self._take)

    def _take(self, question: Question) -> None:
        self.asked.append(question)
        self._on_question(self.desk, question)

    def end(self) -> None:
        self.woken.put(False)
        self.thread.join()


def answer(desk: Desk, question: Question) -> None:
    """As a worker would."""
    desk.answered(Answer(question.number, Epoch(7), pickle.dumps(question.row_key)))


def test_a_question_is_answered():
    """With what was asked for, as of the worker's last durable epoch."""
    driven = Driven(answer)
    found = driven.desk.ask("flow.step", "row of ann", "ann", 30.0)
    driven.end()
    assert (found.epoch, pickle.loads(found.row), found.trouble) == (7, "row of ann", "")


def test_a_question_goes_to_the_worker_that_owns_the_key():
    """As records with that key do."""
    driven = Driven(answer, workers=3)
    keys: list[Any] = ["ann", "bob", 7, ("a", 1), b"x"]
    for key in keys:
        driven.desk.ask("flow.step", key, key, 30.0)
    driven.end()
    assert [q.worker for q in driven.asked] == [owner(key_group(key), 3) for key in keys]
    assert len({q.worker for q in driven.asked}) > 1


def test_the_end_of_the_run_answers_those_who_wait():
    """They are not left to wait until their time is up; nor is whoever asks afterwards."""
    driven = Driven(lambda desk, _: desk.end())
    with pytest.raises(UnansweredError, match="ended before it could answer"):
        driven.desk.ask("flow.step", "ann", "ann", 600.0)
    with pytest.raises(UnansweredError, match="not running now"):
        driven.desk.ask("flow.step", "ann", "ann", 600.0)
    driven.desk.begin(2)
    driven._on_question = answer
    assert driven.desk.ask("flow.step", "ann", "ann", 30.0).epoch == 7
    driven.end()


def test_a_worker_that_does_not_come_back_is_not_waited_for_long():
    """Its answer, when it comes, is nobody's."""
    driven = Driven(lambda *_: None)
    with pytest.raises(UnansweredError, match="worker 0 has been busy"):
        driven.desk.ask("flow.step", "ann", "ann", 0.0)
    driven.end()
    answer(driven.desk, Question(1, WorkerIndex(0), "flow.step", "ann"))


class FakeStore:
    """A store in which reading goes as it is told."""

    def __init__(self, read: Callable[[], Any]) -> None:
        self._read = read

    def committed(self, step_id: str, key: Any) -> tuple[Epoch, Any]:
        return Epoch(3), self._read()


def ask_store(read: Callable[[], Any]) -> Answer:
    store: Any = FakeStore(read)
    return answer_of(store, Question(1, WorkerIndex(0), "flow.step", "ann"))


def test_a_row_that_cannot_be_read_ends_no_run():
    """Whoever asked is told; the run says so itself when it needs the row."""

    def read() -> Any:
        raise CorruptStoreError(Path("/store"), "it is damaged")

    assert "it is damaged" in ask_store(read).trouble


def test_what_is_not_there_is_none():
    """With the epoch all the same."""
    found = ask_store(lambda: None)
    assert (found.epoch, pickle.loads(found.row)) == (3, None)
