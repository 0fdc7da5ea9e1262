"""Tasks on threads.

Threads are made when calls wait and none is idle. All take their calls from one queue. A thread
can't be stopped, so one whose call is given up is **abandoned**: it doesn't count any more, and
another one may be made. When it comes back it works on if there is room for it, or ends.

A thread whose call waits for its subtasks stands **aside**: it doesn't count either, and others
run in its place. It counts again when it goes on; if there are too many then, the next one that has
nothing to do, or has just done something, ends.

All threads are daemons: a call that never ends doesn't keep the process.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from engine.dataflow._callable_name import f_repr
from engine.errors import UserCodeError
from engine.operators.tasks import Call, Completion, RunningExecutor, ThreadExecutor
from engine.operators.tasks._callers import Answer, ThreadInvoker
from engine.operators.tasks._context import WithContext
from engine.operators.tasks._requests import Request
from engine.runtime.executors._calling import RunCall
from engine.runtime.executors._finished import Finished


class _Seat:
    """What is known of one thread."""

    __slots__ = ("abandoned", "aside", "call_id", "calls_done", "started_s", "thread")

    def __init__(self) -> None:
        self.call_id = -1
        """What it runs; -1 for nothing."""
        self.started_s = 0.0
        self.calls_done = 0
        self.abandoned = False
        self.aside = False
        self.thread: threading.Thread | None = None


class Threads(RunningExecutor):
    """Runs calls on threads.

    Args:
        fn: The user's function. If it is a `WithContext`, calls may have subtasks.
        executor: How many threads.
        wake: Wakes the worker.
        step_id: Names the threads.
    """

    def __init__(
        self,
        fn: Callable[[Any], Any],
        executor: ThreadExecutor,
        wake: Callable[[], None],
        step_id: str,
    ) -> None:
        self.places = executor.threads
        self.stops = False
        self._fn = fn
        self.runs_graphs = isinstance(fn, WithContext)
        self._run_call = RunCall(ThreadInvoker(fn, self) if self.runs_graphs else fn)
        self._limit = executor.threads
        self._abandoned_max = executor.abandoned
        self._step_id = step_id
        self._finished = Finished[Completion](wake)
        self._asked = Finished[Request](wake)
        self.ask = self._asked.add
        """Takes what calls ask of the worker, on their threads."""
        self._answers: set[Answer] = set()
        """What calls wait for that stand aside."""
        self._mine = threading.local()
        """The seat of the thread that asks."""
        self._queue: SimpleQueue[Call | None] = SimpleQueue()
        self._lock = threading.Lock()
        """Held to make, abandon, take back and end threads; never for a call that goes well."""
        self._seats: list[_Seat] = []
        self._counted = 0
        """Threads that are neither abandoned nor aside."""
        self._submitted = 0
        self._done_by_ended = 0
        """Calls that threads had done which have ended."""
        self._given_up: set[int] = set()
        """Calls that were given up before they began."""
        self._made = 0
        self._closed = False

    def submit(self, calls: Sequence[Call]) -> None:
        """As in `RunningExecutor`."""
        if self._given_up and self._queue.empty():
            self._given_up.clear()
        put = self._queue.put
        for call in calls:
            put(call)
        self._submitted += len(calls)
        if self._counted < self._limit:
            self._make_threads()

    def _make_threads(self) -> None:
        """See to it that no call waits while there may be more threads."""
        with self._lock:
            done = self._done_by_ended + sum(seat.calls_done for seat in self._seats)
            abandoned = sum(1 for seat in self._seats if seat.abandoned)
            aside = sum(1 for seat in self._seats if seat.aside and not seat.abandoned)
            under_way = self._submitted - done - abandoned - aside
            for _ in range(min(under_way, self._limit) - self._counted):
                seat = _Seat()
                self._made += 1
                seat.thread = threading.Thread(
                    target=self._work,
                    args=(seat,),
                    name=f"engine-task-{self._step_id}-{self._made}",
                    daemon=True,
                )
                self._seats.append(seat)
                self._counted += 1
                seat.thread.start()

    def _work(self, seat: _Seat) -> None:
        get, run, add, now_s = self._queue.get, self._run_call, self._finished.add, time.monotonic
        given_up = self._given_up
        self._mine.seat = seat
        while True:
            call = get()
            if call is None:
                if self._closed or self._is_surplus(seat):
                    break
                continue
            seat.started_s = now_s()
            # First, so that either `cancel` sees who has the call, or it is seen here.
            seat.call_id = call_id = call.call_id
            if given_up and call_id in given_up:
                given_up.discard(call_id)
            else:
                completion = run(call)
                if self._closed:
                    break
                add(completion)
                # A thread that waits must not keep what users may wait to see gone.
                del completion
            del call
            seat.call_id = -1
            seat.calls_done += 1
            if seat.abandoned:
                if not self._take_back(seat):
                    break
            elif self._counted > self._limit and self._is_surplus(seat):
                break
        with self._lock:
            self._seats.remove(seat)
            self._done_by_ended += seat.calls_done
            self._counted -= not seat.abandoned

    def _take_back(self, seat: _Seat) -> bool:
        """A thread that was abandoned has come back. Whether it is needed."""
        with self._lock:
            if self._counted >= self._limit:
                return False
            seat.abandoned = False
            self._counted += 1
            return True

    def _is_surplus(self, seat: _Seat) -> bool:
        """Whether a thread that has nothing to do is one too many: then it must end."""
        with self._lock:
            if self._counted <= self._limit:
                return False
            self._counted -= 1
            seat.abandoned = True
            return True

    def wait(self, answer: Answer) -> None:
        """Wait, on the thread of a call, while others take its place."""
        seat: _Seat = self._mine.seat
        with self._lock:
            self._answers.add(answer)
            if not seat.abandoned:
                seat.aside = True
                self._counted -= 1
        if not self._queue.empty():
            self._make_threads()
        if self._closed:
            answer.give(None)
        answer.wait()
        with self._lock:
            self._answers.discard(answer)
            if seat.aside:
                seat.aside = False
                self._counted += not seat.abandoned
            surplus = self._counted > self._limit
        if surplus:
            self._queue.put(None)

    def completions(self) -> list[Completion]:
        """As in `RunningExecutor`."""
        return self._finished.take()

    def requests(self) -> list[Request]:
        """As in `RunningExecutor`."""
        return self._asked.take()

    def ended(self) -> bool:
        """As in `RunningExecutor`."""
        return bool(self._finished) or bool(self._asked)

    def started_s(self, call_id: int) -> float | None:
        """As in `RunningExecutor`."""
        for seat in self._seats:
            if seat.call_id == call_id:
                return seat.started_s
        return None

    def cancel(self, call_id: int) -> None:
        """As in `RunningExecutor`."""
        # First, so that a thread that is about to begin it sees this.
        self._given_up.add(call_id)
        with self._lock:
            seat = next((seat for seat in self._seats if seat.call_id == call_id), None)
            if seat is None:
                return
            self._given_up.discard(call_id)
            if seat.abandoned:
                return
            abandoned = sum(1 for other in self._seats if other.abandoned)
            if abandoned >= self._abandoned_max:
                raise self._too_many(abandoned)
            seat.abandoned = True
            self._counted -= not seat.aside
        self._make_threads()

    def _too_many(self, abandoned: int) -> UserCodeError:
        return UserCodeError(
            f"{abandoned} calls of {f_repr(self._fn)} were given up and have not come back, and "
            f"one more was to be given up",
            function=self._fn,
            hint="give its own calls a timeout, or use executor='process', where calls are ended",
        )

    def close(self, timeout_s: float) -> list[str]:
        """As in `RunningExecutor`."""
        self._closed = True
        deadline_s = time.monotonic() + timeout_s
        with contextlib.suppress(Empty):
            while True:
                self._queue.get_nowait()
        with self._lock:
            seats = list(self._seats)
            answers = list(self._answers)
        for answer in answers:
            answer.give(None)
        for _ in seats:
            self._queue.put(None)
        for seat in seats:
            assert seat.thread is not None  # noqa: S101 - made with its seat
            if not seat.abandoned:
                seat.thread.join(max(0.0, deadline_s - time.monotonic()))
        busy = sum(1 for seat in seats if seat.thread is not None and seat.thread.is_alive())
        if not busy:
            return []
        return [f"step {self._step_id!r}: {busy} calls of {f_repr(self._fn)}, on threads"]
