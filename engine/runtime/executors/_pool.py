"""Tasks in processes.

A thread of the pool does everything: it starts processes, pickles calls and sends them, reads
results, and replaces what dies. So the worker's thread never waits for a process.

A process is given several calls at once where they are short, so that it needn't wait for the
pool, and one besides the one it runs where they are longer. If it then says nothing for a while, it
is asked to give back what it hasn't begun, and others get it. In memory that it shares with the
pool it notes which call it runs. When it dies, that one has died with it; the others that it was
given are run elsewhere, and nobody hears of it.

A process whose call waits for subtasks doesn't count: another one is started in its place. When it
goes on there are more than the pool's size. They are kept for a while, as starting one takes long,
but no more of them work at the same time.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from engine.dataflow._callable_name import f_repr
from engine.errors import InternalError, WorkerProcessError
from engine.operators.tasks import Call, Completion, Kind, ProcessExecutor, RunningExecutor
from engine.operators.tasks._context import WithContext
from engine.operators.tasks._objects import Objects
from engine.operators.tasks._process_calls import ProcessInvoker
from engine.operators.tasks._requests import Invocation, ObjectRef, Outcome, Request, Waits
from engine.operators.tasks._shipping import shipped
from engine.runtime.executors._child import (
    ASKED,
    DONE,
    FAILED,
    GIVEN_BACK,
    READY,
    is_loading,
    main_of_this_process,
)
from engine.runtime.executors._finished import Finished
from engine.runtime.executors._process import DEATH_S, PoolProcess
from engine.runtime.executors._remote import Remote, died, how_it_ended

_AT_ONCE_S = 0.002
"""A process is given so much work at once, by what calls have taken lately, ..."""
_AT_ONCE_MAX = 256
"""... but not more calls than these ..."""
_LARGE_BYTES = 1 << 16
"""... and not more than one such argument ..."""
_ONE_AHEAD_S = 0.015
"""... and one besides the one it runs, if they take less than this."""
_MOVES_MAX = 5
"""A call that was given to so many processes that died, though it ran in none of them, has died."""
_STARTS_MAX = 3
"""When so many processes in a row have died as they started, calls don't wait for the next."""
_PAUSE_S, _PAUSE_MAX_S = 0.05, 2.0
"""Between deaths in a row without a call that ended."""
_SPARE_S = 30.0
"""So long a process is kept that is more than the pool's size and has nothing to do."""
_SLOW_START_S = 20.0
"""It is told of a process that isn't ready after this."""
_LOOK_S = 1.0
"""So often it is looked whether processes still live: a child of one may keep its socket open."""


class Pool(RunningExecutor):
    """Runs calls in processes.

    Args:
        fn: The user's function. If it is a `WithContext`, calls may have subtasks.
        executor: How many processes.
        wake: Wakes the worker.
        step_id: For messages, and names the thread.
        tell: Takes a line for people, on the pool's thread.

    Raises:
        TypeError: The function can't be sent to other processes.
        RuntimeError: This is itself such a process, which imports a main module without a guard.
    """

    def __init__(
        self,
        fn: Callable[[Any], Any],
        executor: ProcessExecutor,
        wake: Callable[[], None],
        step_id: str,
        tell: Callable[[str], None],
    ) -> None:
        if is_loading():
            msg = (
                f"step {step_id!r} is started by a process for tasks, which only imports this "
                f"module: put what runs the flow below `if __name__ == '__main__':`"
            )
            raise RuntimeError(msg)
        self._size = executor.processes or len(os.sched_getaffinity(0))
        self.places = self._size
        self._fn = fn
        self._step_id = step_id
        self._say = tell
        self._slow_start_told = False
        self._remote = Remote(fn)
        self.runs_graphs = isinstance(fn, WithContext)
        self._objects = Objects()
        self._setup = _setup(fn, step_id, self._objects.prefix if self.runs_graphs else None)
        self._finished = Finished[Completion](wake)
        self._asked = Finished[Request](wake)
        self._functions: dict[bytes, bytes] = {}
        """Functions of subtasks, by the names that they travel under."""
        self._inbox: deque[Sequence[Call] | int | _Answer] = deque()
        """Calls, ids of those that are given up, and what calls have waited for."""
        self._rung = False
        self._bell, self._ear = os.pipe()[::-1]
        for end in (self._bell, self._ear):
            os.set_blocking(end, False)
        self._closing_until_s: float | None = None
        self._left: list[str] = []
        # From here on the pool's thread alone works with these.
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._waiting: deque[Call] = deque()
        self._unwanted: set[int] = set()
        """Calls that wait and were given up."""
        self._processes: list[PoolProcess] = []
        self._moved: Counter[int] = Counter()
        """How often calls were given to processes that died."""
        self._call_s: float | None = None
        """How long a call takes, of late."""
        self._deaths = 0
        """In a row, without a call that ended."""
        self._bad_starts = 0
        """Processes in a row that died before they were ready."""
        self._start_due_s = 0.0
        self._look_due_s = 0.0
        self._broken: BaseException | None = None
        """Why no call can be run any more."""
        self._thread = threading.Thread(
            target=self._run, name=f"engine-task-pool-{step_id}", daemon=True
        )
        self._thread.start()

    # The worker's thread

    def submit(self, calls: Sequence[Call]) -> None:
        """As in `RunningExecutor`."""
        self._tell(list(calls))

    def completions(self) -> list[Completion]:
        """As in `RunningExecutor`."""
        return self._finished.take()

    def requests(self) -> list[Request]:
        """As in `RunningExecutor`."""
        return self._asked.take()

    def release(self, result: Any) -> None:
        """As in `RunningExecutor`."""
        if isinstance(result, ObjectRef):
            self._objects.free(result.name)

    def ended(self) -> bool:
        """As in `RunningExecutor`."""
        return bool(self._finished) or bool(self._asked)

    def started_s(self, call_id: int) -> float | None:
        """As in `RunningExecutor`."""
        for process in tuple(self._processes):
            with contextlib.suppress(ValueError):  # It has just been closed.
                if process.running == call_id:
                    return process.began_s
        return None

    def cancel(self, call_id: int) -> None:
        """As in `RunningExecutor`. The process that runs the call is killed."""
        self._tell(call_id)

    def close(self, timeout_s: float) -> list[str]:
        """As in `RunningExecutor`."""
        if not self._thread.is_alive():
            return []
        self._closing_until_s = time.monotonic() + timeout_s
        self._ring()
        self._thread.join(timeout_s + 0.5)
        if self._thread.is_alive():
            return [f"step {self._step_id!r}: the pool of its processes"]
        for end in (self._bell, self._ear):
            os.close(end)
        self._objects.free_all()
        return self._left

    def _tell(self, what: Sequence[Call] | int | _Answer) -> None:
        if self._closing_until_s is not None:
            return  # The bell may be gone, and its number be another file's.
        self._inbox.append(what)
        # The pool resets it before it looks into the inbox, so nothing is overlooked.
        if not self._rung:
            self._ring()

    def _ring(self) -> None:
        self._rung = True
        with contextlib.suppress(BlockingIOError):
            os.write(self._bell, b"!")

    # The pool's thread

    def _run(self) -> None:
        try:
            while self._closing_until_s is None:
                self._turn()
        except BaseException as ex:  # noqa: BLE001 - whatever it is, calls must not wait for ever
            error = InternalError(f"step {self._step_id!r}: the pool of its processes failed")
            error.__cause__ = ex
            self._broken = error
            while self._closing_until_s is None:
                self._listen()
                self._fail_all(Kind.RAISED, error)
        finally:
            self._end()

    def _turn(self) -> None:
        self._listen()
        self._look_after_processes()
        if self._broken is not None:
            self._fail_all(Kind.RAISED, self._broken)
            return
        if self._short and time.monotonic() >= self._start_due_s:
            self._start_processes()
        if self._waiting:
            self._deal()

    @property
    def _short(self) -> bool:
        """Whether there are too few processes."""
        return sum(1 for process in self._processes if not process.waits) < self._size

    def _listen(self) -> None:
        """Wait until something happens or is due, and take it in."""
        for key, events in self._selector.select(self._pause_s()):
            process: PoolProcess | None = key.data
            if process is None:
                self._take_inbox()
                continue
            if events & selectors.EVENT_WRITE:
                self._send_more(process)
            if events & selectors.EVENT_READ:
                self._hear(process)

    def _look_after_processes(self) -> None:
        now_s = time.monotonic()
        looks = now_s >= self._look_due_s
        if looks:
            self._look_due_s = now_s + _LOOK_S
            self._retire()
        for process in tuple(self._processes):
            if process.hung_up or (looks and process.is_dead()):
                self._bury(process)
            elif looks and not process.ready and now_s - process.heard_s >= _SLOW_START_S:
                self._tell_of_slow_start(process)
            elif (due_s := process.ask_due_s()) is not None and now_s >= due_s:
                self._ask(process)

    def _retire(self) -> None:
        """Let processes go that are more than are needed, and were not needed for a while."""
        kept = [p for p in self._processes if not p.waits and not p.ended_by_pool]
        before_s = time.monotonic() - _SPARE_S
        idle = [p for p in kept if p.ready and not p.under_way and p.heard_s < before_s]
        for process in idle[: max(0, len(kept) - self._size)]:
            process.ended_by_pool = True
            process.hang_up()

    def _tell_of_slow_start(self, process: PoolProcess) -> None:
        """Once: calls wait for it, and nobody would know what for."""
        if not self._slow_start_told:
            self._slow_start_told = True
            self._say(
                f"step {self._step_id!r}: process {process.pid} for {f_repr(self._fn)} has "
                f"been importing its module for {_SLOW_START_S:.0f} s, and tasks wait for that"
            )

    def _pause_s(self) -> float:
        """How long nothing will be due."""
        due_s = [due for process in self._processes if (due := process.ask_due_s()) is not None]
        if self._short and self._broken is None:
            due_s.append(self._start_due_s)
        if not due_s:
            return _LOOK_S
        return min(_LOOK_S, max(0.0, min(due_s) - time.monotonic()))

    def _take_inbox(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._ear, 1 << 10)
        self._rung = False
        while self._inbox:
            what = self._inbox.popleft()
            if isinstance(what, int):
                self._give_up(what)
            elif isinstance(what, _Answer):
                if what.process in self._processes:
                    what.process.answer(self._remote.answer(what.outcomes))
                    self._send_more(what.process)
            else:
                self._waiting.extend(what)

    def _give_up(self, call_id: int) -> None:
        for process in self._processes:
            if call_id in process.under_way:
                process.unwanted.add(call_id)
                self._ask(process)
                return
        if any(call.call_id == call_id for call in self._waiting):
            self._unwanted.add(call_id)

    def _ask(self, process: PoolProcess) -> None:
        """Free a process of what it needn't do."""
        if process.running in process.unwanted:
            process.ended_by_pool = True
            process.kill()
        elif not process.asked:
            process.ask()

    def _start_processes(self) -> None:
        while self._short:
            try:
                process = PoolProcess(self._setup)
            except OSError as ex:
                # No room for another process or its files: the others may do, or later ones.
                self._start_failed(f"{ex}", None)
                return
            self._processes.append(process)
            self._selector.register(process.sock, selectors.EVENT_READ, process)
            self._send_more(process)

    def _send_more(self, process: PoolProcess) -> None:
        process.send_more()
        events = selectors.EVENT_READ
        if process.has_more_to_send:
            events |= selectors.EVENT_WRITE
        if self._selector.get_key(process.sock).events != events:
            self._selector.modify(process.sock, events, process)

    def _hear(self, process: PoolProcess) -> bool:
        """Take in what a process says. Whether it said anything."""
        messages = process.receive()
        if messages is None:
            return False
        for message in messages:
            process.heard_s = time.monotonic()
            what = message[0]
            if what == DONE:
                self._note_duration(message[1] / len(message[2]))
                process.stuck = False
                self._finished.add_all(self._ends(process, message[2]))
            elif what == GIVEN_BACK:
                process.asked = False
                ids = [call_id for call_id in reversed(message[1]) if call_id in process.under_way]
                self._take_back(process, [process.under_way.pop(call_id) for call_id in ids])
                process.stuck = bool(process.under_way)
            elif what == ASKED:
                self._take_request(process, *message[1:])
            elif what == READY:
                process.ready = True
                self._bad_starts = 0
            else:
                assert what == FAILED, message  # noqa: S101 - there is no other kind
                self._broken = self._remote.not_loaded(*message[1:])
        return True

    def _take_request(
        self, process: PoolProcess, request: Request, functions: dict[bytes, bytes]
    ) -> None:
        self._functions.update(functions)
        if isinstance(request, Waits):
            process.waits = True
            request = request._replace(reply=_Reply(self._tell, process))
        self._asked.add(request)

    def _ends(
        self, process: PoolProcess, results: list[tuple[int, int, bytes]]
    ) -> Iterator[Completion]:
        self._deaths = 0
        for call_id, kind, data in results:
            if process.under_way.pop(call_id, None) is None:
                continue  # All were failed meanwhile.
            if self._moved:
                self._moved.pop(call_id, None)
            if call_id in process.unwanted and not self.runs_graphs:
                process.unwanted.discard(call_id)
                continue
            completion = self._remote.completion(call_id, kind, data)
            value: Any = completion.value
            if isinstance(value, ObjectRef):
                self._objects.keep(value.name)
            if call_id in process.unwanted:
                process.unwanted.discard(call_id)
                self.release(value)
            else:
                yield completion

    def _take_back(self, process: PoolProcess, calls: list[Call]) -> None:
        """Calls that a process had and hasn't begun are for others, and first of all."""
        back: list[Call] = []
        for call in calls:
            if call.call_id in process.unwanted:
                process.unwanted.discard(call.call_id)
                self._moved.pop(call.call_id, None)
            else:
                back.append(call)
        self._waiting.extendleft(reversed(back))

    def _note_duration(self, call_s: float) -> None:
        known_s = self._call_s
        self._call_s = call_s if known_s is None else known_s + 0.2 * (call_s - known_s)

    def _room(self) -> int:
        """How many calls a process is given at once."""
        call_s = self._call_s
        # What processes died with runs by itself: its results aren't to be lost once more.
        if self._moved or call_s is None or call_s >= _ONE_AHEAD_S:
            return 1
        return max(2, min(_AT_ONCE_MAX, int(_AT_ONCE_S / max(call_s, 1e-9))))

    def _deal(self) -> None:
        """Give calls to processes that have room for them, in turns."""
        room = self._room()
        takers = sorted(
            (p for p in self._processes if p.is_open),
            key=lambda process: len(process.under_way),
        )
        busy = sum(1 for p in self._processes if p.under_way and not p.waits)
        idle = sum(1 for process in takers if not process.under_way)
        takers = takers[max(0, idle - max(0, self._size - busy)) :]
        # Half of it is enough to go on with, so that frames carry several.
        open_to = [p for p in takers if len(p.under_way) * 2 <= room or not p.under_way]
        hands: list[tuple[PoolProcess, list[tuple[Call, bytes]], int]] = [
            (process, [], room - len(process.under_way)) for process in open_to
        ]
        unfilled = hands
        while unfilled and self._waiting:
            for _, calls, _ in unfilled:
                if (written := self._next_written()) is not None:
                    calls.append(written)
            unfilled = [hand for hand in unfilled if _takes_more(hand[1], hand[2])]
        for process, calls, _ in hands:
            self._give(process, calls)

    def _give(self, process: PoolProcess, calls: list[tuple[Call, bytes]]) -> None:
        if calls:
            process.give(calls, self._needed(calls))
            self._send_more(process)

    def _needed(self, calls: list[tuple[Call, bytes]]) -> dict[bytes, bytes]:
        """The functions of subtasks among some calls."""
        if not self.runs_graphs:
            return {}
        works = [
            invocation.work for (_, invocation), _ in calls if isinstance(invocation, Invocation)
        ]
        names = {work.function for work in works if work is not None}
        return {name: self._functions[name] for name in names}

    def _next_written(self) -> tuple[Call, bytes] | None:
        """The next call that waits, with its argument pickled; None if none is left."""
        while self._waiting:
            call = self._waiting.popleft()
            if self._unwanted and call.call_id in self._unwanted:
                self._unwanted.discard(call.call_id)
                self._moved.pop(call.call_id, None)
                continue
            written = self._remote.written(call)
            if isinstance(written, bytes):
                return call, written
            self._finished.add(written)
        return None

    def _bury(self, process: PoolProcess) -> None:
        """A process is dead, or as good as that."""
        exit_code = process.end()
        while not process.hung_up and self._hear(process):
            pass  # What it had said before counts.
        self._processes.remove(process)
        self._selector.unregister(process.sock)
        running, calls = process.running, list(process.under_way.values())
        process.close()
        self._objects.sweep(process.pid)
        if not process.ended_by_pool:
            self._note_death(process, exit_code)
        gone: list[Completion] = []
        others: list[Call] = []
        for call in calls:
            moves = self._moved.pop(call.call_id, 0) + 1
            if call.call_id in process.unwanted:
                continue
            if call.call_id == running or moves >= _MOVES_MAX:
                gone.append(died(call.call_id, self._fn, process.pid, exit_code))
            else:
                self._moved[call.call_id] = moves
                others.append(call)
        self._finished.add_all(gone)
        self._take_back(process, others)

    def _note_death(self, process: PoolProcess, exit_code: int | None) -> None:
        self._deaths += 1
        if self._deaths > 1:
            pause_s = min(_PAUSE_MAX_S, _PAUSE_S * 2 ** min(self._deaths, 10))
            self._start_due_s = time.monotonic() + pause_s
        if not process.ready and self._broken is None:
            self._start_failed(how_it_ended(exit_code), exit_code)

    def _start_failed(self, how: str, exit_code: int | None) -> None:
        """Calls must not wait for processes that never come to run any."""
        self._bad_starts += 1
        pause_s = min(_PAUSE_MAX_S, _PAUSE_S * 2 ** min(self._bad_starts, 10))
        self._start_due_s = time.monotonic() + pause_s
        if self._bad_starts >= _STARTS_MAX and not any(p.ready for p in self._processes):
            text = f"processes for {f_repr(self._fn)} die as they start; the last one {how}"
            self._fail_all(Kind.DIED, WorkerProcessError(text, exit_code=exit_code))

    def _fail_all(self, kind: Kind, error: BaseException) -> None:
        """End all calls that there are."""
        calls = [call for process in self._processes for call in process.under_way.values()]
        for process in self._processes:
            process.under_way.clear()
        calls += self._waiting
        self._waiting.clear()
        self._unwanted.clear()
        self._moved.clear()
        self._finished.add_all(Completion(call.call_id, kind, error) for call in calls)

    def _end(self) -> None:
        until_s = self._closing_until_s or time.monotonic()
        for process in self._processes:
            if process.ready:
                process.hang_up()
            else:
                # It would load the user's modules first.
                process.kill()
        for process in self._processes:
            # Half of the time for those that leave by themselves.
            half_s = (until_s - time.monotonic()) / 2
            if process.wait(half_s) is None:
                process.kill()
        for process in self._processes:
            if process.wait(max(DEATH_S / 2, until_s - time.monotonic())) is None:
                self._left.append(f"step {self._step_id!r}: its process with id {process.pid}")
            process.close()
        self._selector.close()


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the call of a process has waited for."""

    process: PoolProcess
    outcomes: list[Outcome] | None


@dataclass(frozen=True, slots=True)
class _Reply:
    """Lets the call of a process go on."""

    tell: Callable[[_Answer], None]
    process: PoolProcess

    def __call__(self, outcomes: list[Outcome] | None) -> None:
        self.tell(_Answer(self.process, outcomes))


def _takes_more(calls: list[tuple[Call, bytes]], most: int) -> bool:
    """Whether a frame may have more calls."""
    return len(calls) < most and not (calls and len(calls[-1][1]) >= _LARGE_BYTES)


def _setup(fn: Callable[[Any], Any], step_id: str, objects: str | None) -> dict[str, Any]:
    """What a process needs to find a function, and the prefix of its objects if it runs graphs."""
    files: dict[str, str] = {}
    module = sys.modules.get(getattr(fn, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    if module is not None and file is not None and module.__name__ != "__main__":
        # A flow's file may be loaded under a name that isn't the file's.
        files[module.__name__] = file
    # What a process has as its main module is called so there, and results may be of its classes.
    sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
    return {
        "path": [entry for entry in sys.path if isinstance(entry, str)],
        "argv": list(sys.argv),
        "files": files,
        "main": main_of_this_process(),
        "graphs": objects is not None,
        "function": shipped(fn if objects is None else ProcessInvoker(fn, objects), step_id),
    }
