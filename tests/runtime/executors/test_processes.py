"""Processes: what goes there and comes back, what dies, and what that costs the others."""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from engine.errors import RemoteError, UserCodeError, WorkerProcessError
from engine.operators.tasks import Call, Completion, Kind, ProcessExecutor
from engine.runtime.executors import _pool
from engine.runtime.executors._pool import Pool
from engine.runtime.executors._process import PoolProcess
from tests.conformance.executor_functions import double, hold, kill_if_odd, raise_it
from tests.conformance.executor_suite import Bench, bench, lines_of, wait_until
from tests.runtime.executors import task_functions as functions


@pytest.fixture
def desk() -> Iterator[Bench]:
    with bench() as made:
        yield made


def pids_of(desk: Bench) -> list[int]:
    """The processes of a pool that are ready for calls."""
    pool = cast("Pool", desk.running)
    return [process.pid for process in tuple(pool._processes) if process.ready]


def wait_ready(desk: Bench, count: int) -> list[int]:
    wait_until(lambda: len(pids_of(desk)) == count, "a pool with all its processes")
    return pids_of(desk)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


# What goes there and comes back


def test_a_remote_exception_has_its_remote_traceback(desk: Bench):
    """As its cause; notes come along."""
    desk.start(ProcessExecutor(1), functions.raise_chained)
    ended = desk.call("inner")
    assert ended.kind is Kind.RAISED
    assert type(ended.value) is ValueError
    assert ended.value.__notes__ == ["a note"]
    remote = ended.value.__cause__
    assert isinstance(remote, RemoteError)
    assert "raise_chained" in remote.traceback_text
    assert "KeyError: 'inner'" in remote.traceback_text
    assert "_child.py" not in remote.traceback_text


@pytest.mark.parametrize(
    ("fn", "name", "text"),
    [
        (functions.raise_picky, "PickyError", "1 and 2"),
        (functions.raise_locked, "LockedError", "locked"),
        (functions.raise_local, "LocalError", "here"),
    ],
)
def test_an_exception_that_cannot_be_sent_comes_as_its_text(
    desk: Bench, fn: Callable[[Any], Any], name: str, text: str
):
    """Whether it can't be pickled, or not be read back; type, message and traceback are there."""
    desk.start(ProcessExecutor(1), fn)
    ended = desk.call(None)
    assert ended.kind is Kind.RAISED
    assert type(ended.value) is RemoteError
    assert ended.value.type_name.endswith(name)
    assert ended.value.message == text
    assert fn.__name__ in ended.value.traceback_text


@pytest.mark.parametrize(
    ("fn", "argument", "text"),
    [
        (functions.take, lambda: 1, r"the record of .*take.* can't be pickled"),
        (functions.take, functions.Unreadable(), r"the record of .*take.* can't be unpickled"),
        (functions.give_lock, 1, r"returned by .*give_lock.* can't be pickled: TypeError: .*lock"),
        (functions.give_unreadable, 1, r"what .*give_unreadable.* returned can't be unpickled"),
    ],
)
def test_what_cannot_be_sent_fails_its_own_call_only(
    desk: Bench, fn: Callable[[Any], Any], argument: Any, text: str
):
    """Those in the same frame go well; the message says which way it couldn't go."""
    desk.start(ProcessExecutor(1), fn)
    good = [call_id for call_id in desk.submit(*range(5)) if fn is functions.take]
    [bad] = desk.submit(argument)
    good += [call_id for call_id in desk.submit(*range(5)) if fn is functions.take]
    [ended] = desk.wait_for(bad)
    assert ended.kind is Kind.RAISED
    assert isinstance(ended.value, UserCodeError)
    assert re.search(text, str(ended.value))
    assert [c.value for c in desk.wait_for(*good)] == ["taken"] * len(good)
    for _ in range(2):  # By itself, too.
        assert isinstance(desk.call(argument).value, UserCodeError)


@pytest.mark.skipif(not importlib.util.find_spec("cloudpickle"), reason="needs cloudpickle")
def test_a_function_without_a_name_runs_by_its_code(desk: Bench):
    """With what it closes over."""
    number = 5
    desk.start(ProcessExecutor(1), lambda other: number + other)
    assert desk.values(1, 2) == [6, 7]


def test_a_process_loads_nothing_that_it_need_not(desk: Bench):
    """Neither the engine nor what the tests are run by."""
    desk.start(ProcessExecutor(1), functions.modules)
    [loaded] = desk.values(None)
    assert {name.partition(".")[0] for name in loaded}.isdisjoint({"engine", "pytest", "msgpack"})


# What dies


@pytest.mark.parametrize(
    ("how", "text"),
    [(3, "ended with exit code 3"), (0, "exit code 0"), (-9, "SIGKILL"), (-6, "SIGABRT")],
)
def test_a_call_that_ends_its_process_has_died(desk: Bench, how: int, text: str):
    """It says how, and another process goes on."""
    desk.start(ProcessExecutor(1), functions.die)
    for _ in range(2):
        ended = desk.call(how)
        assert ended.kind is Kind.DIED
        assert isinstance(ended.value, WorkerProcessError)
        assert ended.value.exit_code == how
        assert text in str(ended.value)
        assert "functions.die" in str(ended.value)


def test_a_crash_in_c_code_is_a_death(desk: Bench):
    """As a fault in a library would be."""
    desk.start(ProcessExecutor(1), functions.crash)
    assert desk.call(None).kind is Kind.DIED


def test_a_record_that_kills_who_reads_it_has_died(desk: Bench, monkeypatch: pytest.MonkeyPatch):
    """The call is noted before its record is unpickled."""
    monkeypatch.setattr(_pool, "_MOVES_MAX", 1_000)
    desk.start(ProcessExecutor(1), functions.take)
    before, deadly, after = desk.submit(1, functions.DeadlyToRead(), 2)
    [ended] = desk.wait_for(deadly)
    assert (ended.kind, ended.value.exit_code) == (Kind.DIED, 7)
    assert [c.value for c in desk.wait_for(before, after)] == ["taken"] * 2


def test_want_of_memory_is_an_exception_or_a_death(desk: Bench):
    """In either case the executor goes on."""
    desk.start(ProcessExecutor(1), functions.use_memory)
    for _ in range(2):
        ended = desk.call(None)
        assert ended.kind is Kind.DIED or isinstance(ended.value, MemoryError)


def test_only_the_poison_has_died(desk: Bench):
    """Of many tiny calls that a process was given at once, the slot says which one it was."""
    desk.start(ProcessExecutor(2), kill_if_odd)
    desk.values(*[0] * 500)  # So that it knows them to be tiny.
    numbers = [number if number % 100 == 57 else 0 for number in range(1_000)]
    ended = desk.wait_for(*desk.submit(*numbers))
    assert [c.kind for c in ended] == [Kind.DIED if number else Kind.RETURNED for number in numbers]


def test_processes_killed_under_load_lose_nothing(desk: Bench):
    """Each call ends once; one has died only if it ran then, so at most one per kill."""
    desk.start(ProcessExecutor(2), functions.add_one)
    chance, kills, ids = random.Random(3), 0, list[int]()
    while kills < 12:
        ids += desk.submit(*range(400))
        pids = wait_ready(desk, 2)
        os.kill(chance.choice(pids), signal.SIGKILL)
        kills += 1
        wait_until(lambda killed=set(pids): bool(set(pids_of(desk)) ^ killed))
    ended = desk.wait_for(*ids)
    kinds = Counter(completion.kind for completion in ended)
    assert kinds[Kind.RAISED] == 0
    assert kinds[Kind.DIED] <= kills
    assert all(
        completion.value == place % 400 + 1
        for place, completion in enumerate(ended)
        if completion.kind is Kind.RETURNED
    )


def test_calls_that_were_behind_a_poison_run_once_more_only_if_they_must(
    desk: Bench, tmp_path: Path
):
    """With one call ahead, none of the others has begun in the process that died."""
    desk.start(ProcessExecutor(1), functions.die_or_work)
    path = tmp_path / "ran"
    ids = desk.submit(*((path, number, number == 3) for number in range(8)))
    kinds = [completion.kind for completion in desk.wait_for(*ids)]
    assert kinds == [Kind.DIED if number == 3 else Kind.RETURNED for number in range(8)]
    ran = Counter(lines_of(path))
    assert set(ran) == {str(number) for number in range(8)}
    assert ran["3"] == 1


@pytest.mark.parametrize(("moves_max", "second"), [(1, Kind.DIED), (2, Kind.RETURNED)])
def test_a_call_that_many_processes_died_with_has_died(
    desk: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves_max: int, second: Kind
):
    """Though it ran in none of them, as far as anybody knows: it isn't tried for ever."""
    monkeypatch.setattr(_pool, "_MOVES_MAX", moves_max)
    # It isn't asked to give the second one back.
    monkeypatch.setattr(PoolProcess, "ask_due_s", lambda _: None)
    desk.start(ProcessExecutor(1), hold)
    (tmp_path / "now").touch()
    desk.values(*[(tmp_path / "x", tmp_path / "now")] * 100)  # It has several at a time now.
    ids = desk.submit(*((tmp_path / name, tmp_path / "then") for name in "ab"))
    wait_until(lambda: bool(lines_of(tmp_path / "a")))
    os.kill(pids_of(desk)[0], signal.SIGKILL)
    (tmp_path / "then").touch()
    assert [completion.kind for completion in desk.wait_for(*ids)] == [Kind.DIED, second]


def test_a_death_is_noticed_though_a_child_keeps_the_sockets(desk: Bench, tmp_path: Path):
    """A fork that the user's function made outlives it."""
    desk.start(ProcessExecutor(1), functions.leave_child)
    try:
        ended = desk.call(tmp_path / "child")
        assert (ended.kind, ended.value.exit_code) == (Kind.DIED, 3)
    finally:
        for line in lines_of(tmp_path / "child"):
            os.kill(int(line), signal.SIGKILL)


def test_what_a_process_had_said_before_it_died_counts(
    desk: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Though it is found dead before all of that is read: the call isn't run again."""
    receive, late_ones = PoolProcess.receive, list[PoolProcess]()

    def receive_late(process: PoolProcess) -> Any:
        if process in late_ones:
            wait_until(process.is_dead)
        return receive(process)

    monkeypatch.setattr(_pool, "_LOOK_S", 0.0)
    monkeypatch.setattr(PoolProcess, "receive", receive_late)
    desk.start(ProcessExecutor(1), functions.speak_and_leave)
    desk.values(*[(tmp_path / "x", "little")] * 200)  # So that it is given several at once.
    late_ones.extend(cast("Pool", desk.running)._processes)
    much, leave = desk.submit((tmp_path / "ran", "much"), (tmp_path / "ran", "leave"))
    try:
        kinds = [completion.kind for completion in desk.wait_for(much, leave)]
        assert kinds == [Kind.RETURNED, Kind.DIED]
        assert lines_of(tmp_path / "ran").count("much") == 1
    finally:
        for line in set(lines_of(tmp_path / "ran")) - {"much"}:
            os.kill(int(line), signal.SIGKILL)


# Whose turn it is


def test_what_is_submitted_as_the_pool_looks_away_is_not_overlooked(desk: Bench):
    """It comes just after the pool has found that there is nothing more."""
    desk.start(ProcessExecutor(1), double)
    desk.values(1)
    pool = cast("Pool", desk.running)

    class Late(deque[Any]):
        """Gets one more just after it was seen to be empty."""

        late = True

        def __len__(self) -> int:
            length = super().__len__()
            if not length and self.late:
                self.late = False
                pool.submit([Call(1_000, 4)])
            return length

    pool._inbox = Late()
    desk.submit(2)
    assert desk.wait_for(1_000)[0].value == 8


def test_calls_do_not_wait_behind_a_long_one(desk: Bench, tmp_path: Path):
    """What was given to the process that runs it is given to another."""
    desk.start(ProcessExecutor(2), functions.wait_long_or_not)
    desk.values(*[None] * 2_000)  # They are tiny, so each process is given many.
    until = tmp_path / "until"
    # Those before it have results then which haven't been sent yet.
    before, [long], behind = (desk.submit(*a) for a in ([None] * 20, [until], [None] * 400))
    desk.wait_for(*before, *behind)
    assert long not in desk.ended
    until.touch()
    desk.wait_for(long)


def test_all_processes_get_long_calls(desk: Bench, tmp_path: Path):
    """As many run as there are processes."""
    desk.start(ProcessExecutor(3), functions.pid_and_wait)
    begun, until = tmp_path / "begun", tmp_path / "until"
    ids = desk.submit(*[(begun, until)] * 3)
    wait_until(lambda: len(lines_of(begun)) == 3)
    until.touch()
    assert len({completion.value for completion in desk.wait_for(*ids)}) == 3


def test_a_call_that_is_given_up_ends_its_process(desk: Bench, tmp_path: Path):
    """Even one that is in C code and lets no other thread run; and it has no completion."""
    desk.start(ProcessExecutor(1), functions.hold_interpreter)
    [call_id] = desk.submit(tmp_path / "begun")
    wait_until(lambda: bool(lines_of(tmp_path / "begun")))
    [pid] = pids_of(desk)
    desk.running.cancel(call_id)
    wait_until(lambda: not is_alive(pid), "the end of its process")
    wait_until(lambda: len(pids_of(desk)) == 1 and pids_of(desk) != [pid])
    assert desk.take() == []


# Starting and ending


def test_a_function_whose_module_cannot_be_loaded_fails_each_call(
    desk: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With what was raised there; no call waits for ever."""
    file = tmp_path / "moody_module.py"
    file.write_text("def fn(number):\n    return number\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("moody_module")
    file.write_text("raise RuntimeError('not today')\n# so long that its cache is not taken\n")
    desk.start(ProcessExecutor(2), module.fn)
    for ended in (*desk.wait_for(*desk.submit(1, 2, 3)), desk.call(4)):
        assert ended.kind is Kind.RAISED
        assert "moody_module.fn" in str(ended.value)
        assert "not today" in str(ended.value)
        assert "moody_module.py" in str(ended.value.__cause__)


def test_processes_that_die_as_they_start_fail_the_calls(
    desk: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """After some tries, and the next calls too."""
    file = tmp_path / "deadly_module.py"
    file.write_text("def fn(number):\n    return number\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("deadly_module")
    file.write_text("import os\nos._exit(9)\n# so long that its cache is not taken, in any case\n")
    desk.start(ProcessExecutor(1), module.fn)
    for ended in (*desk.wait_for(*desk.submit(1, 2)), desk.call(3)):
        assert ended.kind is Kind.DIED
        assert "die as they start" in str(ended.value)
        assert "exit code 9" in str(ended.value)


def test_a_module_that_takes_long_to_load_is_told_of(
    desk: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Once, with the function: its calls have no time limit before they begin."""
    monkeypatch.setattr(_pool, "_SLOW_START_S", 0.1)
    file = tmp_path / "slow_module.py"
    file.write_text("def fn(number):\n    return number\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("slow_module")
    file.write_text("import time\nwhile True:\n    time.sleep(1)\n# longer than it was before\n")
    desk.start(ProcessExecutor(2), module.fn)
    desk.submit(1)
    wait_until(lambda: bool(desk.told), "a line")
    desk.executors.close(5)
    [line] = desk.told
    assert "slow_module.fn" in line
    assert "importing its module" in line


def test_a_file_loaded_under_another_name_is_found(desk: Bench, tmp_path: Path):
    """As flows are that are named by their file, where a module of that name is there already."""
    file = tmp_path / "flow.py"
    file.write_text("class Record(int):\n    pass\n\ndef fn(x):\n    return Record(x + 1)\n")
    spec = importlib.util.spec_from_file_location("_flow_file_odd", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_flow_file_odd"] = module
    try:
        spec.loader.exec_module(module)
        desk.start(ProcessExecutor(1), module.fn)
        [value] = desk.values(module.Record(4))
        assert type(value) is module.Record
    finally:
        del sys.modules["_flow_file_odd"]


SCRIPT = """\
import sys
import threading

from engine.operators.tasks import Call, ProcessExecutor
from engine.runtime.executors import Executors


class Record(int):
    pass


def fn(number):
    return Record(number + 1)


def main():
    woken = threading.Event()
    executors = Executors(print)
    running = executors.start(ProcessExecutor(1), fn, woken.set, "flow.step")
    running.submit([Call(0, Record(4))])
    assert woken.wait(50)
    [ended] = running.completions()
    print(ended.kind.value, type(ended.value) is Record or ended.value)
    executors.close(5)


"""


def run_script(path: Path, text: str) -> str:
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_script_has_its_own_functions_and_classes_run(tmp_path: Path):
    """What is `__main__` here is that there, too."""
    guarded = SCRIPT + "if __name__ == '__main__':\n    main()\n"
    assert run_script(tmp_path / "script.py", guarded) == "returned True\n"


def test_a_script_without_a_guard_is_told_to_have_one(tmp_path: Path):
    """Its processes would start processes, and so on."""
    output = run_script(tmp_path / "script.py", SCRIPT + "main()\n")
    assert output.startswith("raised ")
    assert "put what runs the flow below `if __name__ == '__main__':`" in output


ORPHANS = """\
import sys
import threading
from pathlib import Path

from engine.operators.tasks import Call, ProcessExecutor
from engine.runtime.executors import Executors
from tests.conformance.executor_functions import double, hold

begun = Path(sys.argv[1])
executors = Executors(print)
busy = executors.start(ProcessExecutor(2), hold, threading.Event().set, "flow.busy")
idle = executors.start(ProcessExecutor(2), double, threading.Event().set, "flow.idle")
busy.submit([Call(n, (begun, begun.with_name("never"))) for n in range(2)])
while sum(p.ready for p in (*idle._processes, *busy._processes)) < 4:
    threading.Event().wait(0.01)
print(*(p.pid for p in (*idle._processes, *busy._processes)), flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_processes_die_with_their_parent(tmp_path: Path, how: signal.Signals):
    """Idle or at work, however the parent ends."""
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANS, str(tmp_path / "begun")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 4
    wait_until(lambda: len(lines_of(tmp_path / "begun")) == 2)
    parent.send_signal(how)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not any(map(is_alive, pids)), "the end of all its processes")


def test_nothing_is_left_after_closing(desk: Bench, tmp_path: Path):
    """No process, idle or busy or holding the interpreter, and no open file."""
    files = open_files()
    pools = [
        desk.start(ProcessExecutor(2), double).running,
        desk.start(ProcessExecutor(1), functions.hold_interpreter).running,
        desk.start(ProcessExecutor(2), hold).running,
    ]
    desk.submit(*[(tmp_path / "held", tmp_path / "never")] * 20)
    pools[1].submit([Call(0, tmp_path / "c")])
    wait_until(lambda: len(lines_of(tmp_path / "held")) == 2 and bool(lines_of(tmp_path / "c")))
    pids = [p.pid for pool in pools for p in cast("Pool", pool)._processes]
    began_s = time.monotonic()
    assert desk.executors.close(2.0) == []
    assert time.monotonic() - began_s < 5.0
    assert not any(map(is_alive, pids))
    assert open_files() == files


def test_a_failure_of_the_pool_itself_does_not_leave_calls_waiting(
    desk: Bench, monkeypatch: pytest.MonkeyPatch
):
    """They fail, with what went wrong as the cause."""
    desk.start(ProcessExecutor(1), double)
    wait_ready(desk, 1)
    monkeypatch.setattr(Pool, "_deal", lambda _: 1 // 0)
    ended: list[Completion] = desk.wait_for(*desk.submit(1, 2))
    ended.append(desk.call(3))
    assert {c.kind for c in ended} == {Kind.RAISED}
    assert isinstance(ended[0].value.__cause__, ZeroDivisionError)
    assert desk.running.close(5.0) == []


def test_calls_after_closing_are_nobodys(desk: Bench):
    """They neither run nor raise, nor write into a file that has got the number of the bell."""
    running = desk.start(ProcessExecutor(1), double).running
    assert running.close(10.0) == []
    ours, theirs = os.pipe()
    more = [os.dup(theirs) for _ in range(8)]
    desk.submit(1)
    running.cancel(0)
    assert running.close(10.0) == []
    os.set_blocking(ours, False)
    with pytest.raises(BlockingIOError):
        os.read(ours, 1)
    for end in (ours, theirs, *more):
        os.close(end)


def test_exceptions_in_bulk_are_counted_exactly(desk: Bench):
    """One in twenty fails, and each of these by its own exception."""
    desk.start(ProcessExecutor(2), raise_it)
    ended = desk.wait_for(*desk.submit(*(OSError(number, "x") for number in range(500))))
    assert [c.value.errno for c in ended] == list(range(500))
