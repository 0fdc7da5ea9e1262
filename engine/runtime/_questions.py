"""Questions about keyed states from outside the run, on their way to a worker's store and back.

Threads of the endpoint (`engine.runtime._actor_endpoint`) put them on the desk and wait. Who drives
the run carries them to the worker that owns the key, and brings the answers. A worker answers
between two rounds, from what its store knows to be durable, so nobody needs a lock on the store,
and no answer has what a crash could take back.
"""

from __future__ import annotations

import pickle
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from engine.errors import EngineError
from engine.keys import key_group, owner
from engine.runtime._failure import name_of
from engine.runtime._ids import Epoch, WorkerIndex
from engine.runtime._store import Store


@dataclass(frozen=True, slots=True)
class Question:
    """To a worker, about what the last durable epoch has of a key."""

    number: int
    worker: WorkerIndex
    step_id: str
    row_key: Any


@dataclass(frozen=True, slots=True)
class Answer:
    """From a worker."""

    number: int
    epoch: Epoch
    """0 if none is durable yet."""
    row: bytes
    """What is stored, pickled, or None: who has asked gets an object of its own."""
    trouble: str = ""
    """Why the row couldn't be read."""


class UnansweredError(Exception):
    """No answer has come, for a reason that may be over soon."""


def answer_of(store: Store, question: Question) -> Answer:
    """What a worker's store has to say; on the worker's thread."""
    try:
        epoch, row = store.committed(question.step_id, question.row_key)
    except EngineError as ex:
        # Whoever needs the row will say so; a question must not end the run.
        return Answer(question.number, Epoch(0), b"", name_of(ex))
    return Answer(question.number, epoch, pickle.dumps(row, 5))


class Desk:
    """Where questions wait for a worker, and those who have asked for their answers.

    Any thread may `ask`; the other methods are for who drives the run.

    Args:
        wake: Has the driver look at `questions`.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.questions: deque[Question] = deque()
        """Those that were not carried to their worker yet."""
        self._wake = wake
        self._changing = threading.Lock()
        self._waiting: dict[int, SimpleQueue[Answer | None]] = {}
        self._workers = 0
        self._asked = 0

    def ask(self, step_id: str, row_key: Any, key: Any, timeout_s: float) -> Answer:
        """Ask the worker that owns a key, and wait for its answer.

        Args:
            step_id: The step.
            row_key: What the store has the state under.
            key: The key that decides about the worker.
            timeout_s: How long to wait.

        Raises:
            UnansweredError: The run begins, has ended, or the worker is busy with something else.
        """
        answers = SimpleQueue[Answer | None]()
        with self._changing:
            if not self._workers:
                msg = "the job is not running now"
                raise UnansweredError(msg)
            self._asked = number = self._asked + 1
            worker = WorkerIndex(owner(key_group(key), self._workers))
            self._waiting[number] = answers
            self.questions.append(Question(number, worker, step_id, row_key))
        self._wake()
        try:
            answer = answers.get(timeout=timeout_s)
        except Empty:
            msg = f"worker {worker} has been busy with something else for {timeout_s:g} s"
            raise UnansweredError(msg) from None
        finally:
            self._waiting.pop(number, None)
        if answer is None:
            msg = "the run has ended before it could answer"
            raise UnansweredError(msg)
        return answer

    def begin(self, workers: int) -> None:
        """A run begins, with so many workers."""
        self._workers = workers

    def carry(self, ask: Callable[[Question], None]) -> None:
        """Have workers asked what they were not asked yet.

        Args:
            ask: Has a worker answer a question, now or later.
        """
        while self.questions:
            ask(self.questions.popleft())

    def answered(self, answer: Answer) -> None:
        """A worker has answered; whoever asked may have gone."""
        answers = self._waiting.get(answer.number)
        if answers is not None:
            answers.put(answer)

    def end(self) -> None:
        """The run is over, and nobody will answer what was asked."""
        with self._changing:
            self._workers = 0
            self.questions.clear()
            for answers in self._waiting.copy().values():
                answers.put(None)
