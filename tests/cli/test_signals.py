"""Ctrl-C and SIGTERM, sent to real processes: what they keep, what they say, how they exit.

Each flow prints a line once it is where the test wants it, and the test waits for that line.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from engine._cli.exits import Exit
from engine._cli.signals import StopSignals
from engine.runtime import SystemWaiter
from tests.cli.project import Outcome, Project

FLOW = """\
import ctypes, os, sys, time
from datetime import datetime, timedelta, timezone

class Part(StatelessSourcePartition):
    polls = 0
    def next_batch(self):
        self.polls += 1
        return ["a", "b"] if self.polls == 1 else []
    def next_awake(self):
        # From the second batch on, nothing comes for an hour: only a signal ends the wait.
        return datetime.now(timezone.utc) + timedelta(hours=self.polls > 0)
    def close(self):
        print("closed", file=sys.stderr, flush=True)

class Source(DynamicSource):
    def build(self, step_id, worker_index, worker_count):
        return Part()

def make(function, to=None):
    flow = Dataflow("f")
    s = op.input("in", flow, Source())
    s = op.map("slow", s, function)
    s = op.key_on("key", s, lambda x: "all")
    if to is not None:
        op.output("file", s, FileSink(to))
    op.output("out", op.key_rm("unkey", s), StdOutSink())
    return flow

def ready():
    print("ready", flush=True)

def idle(to=None):
    return make(lambda x: x, to)

def sleeping():
    def sleep(x):
        ready()
        time.sleep(3600)
    return make(sleep)

def patient():
    said = []
    def wait(x):
        if not said:
            ready()
            with open("go") as go:
                said.append(go.readline().strip())
        return x + said[0]
    return make(wait)

def stubborn():
    def go_on(x):
        ready()
        while True:
            try:
                time.sleep(3600)
            except BaseException:
                pass
    return make(go_on)

def deaf():
    def wait_for_a_lock_that_no_signal_interrupts(x):
        library, lock = ctypes.CDLL(None), ctypes.create_string_buffer(256)
        library.pthread_mutex_lock(lock)
        ready()
        library.pthread_mutex_lock(lock)
    return make(wait_for_a_lock_that_no_signal_interrupts)

def forking():
    def fork(x):
        if x == "b":
            child = os.fork()
            if child == 0:
                try:
                    print(os.getpid(), flush=True)
                    time.sleep(3600)
                except KeyboardInterrupt:
                    os._exit(7)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return os.getpid()
    return make(fork)
"""
DRAINING = "KeyboardInterrupt: draining, once more to stop now"


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, DRAINING), (signal.SIGTERM, 0, "SIGTERM: draining")],
)
def test_a_signal_drains(number: int, code: int, said: str, project: Project):
    """What was read is written, sources are closed, and the exit code tells the signal."""
    project.write("flows.py", FLOW)
    running = project.start("flows:idle('out.txt')")
    assert running.line() == "a"
    running.signal(number)
    assert running.ended() == Outcome(code, "a\nb\n", f"{said}\nclosed\n")
    assert project.folder.joinpath("out.txt").read_text() == "a\nb\n"


def test_a_second_ctrl_c_stops_at_once(project: Project):
    """While user code is busy, which is interrupted; the source is closed all the same."""
    project.write("flows.py", FLOW)
    running = project.start("flows:sleeping()", "--drain-timeout", "1h")
    assert running.line() == "ready"
    running.signal(signal.SIGINT)
    assert running.line("stderr") == DRAINING
    running.signal(signal.SIGINT)
    outcome = running.ended()
    assert outcome.code == 130
    assert outcome.err == f"{DRAINING}\nKeyboardInterrupt: stopping now\nclosed\n"


def test_a_second_sigterm_changes_nothing(project: Project):
    """The drain goes on to its end."""
    project.write("flows.py", FLOW)
    os.mkfifo("go")
    go = os.open("go", os.O_RDWR)  # Unlike a plain write, this doesn't wait for a reader.
    running = project.start("flows:patient()", "--drain-timeout", "1h")
    assert running.line() == "ready"
    running.signal(signal.SIGTERM)
    assert running.line("stderr") == "SIGTERM: draining"
    running.signal(signal.SIGTERM)
    os.write(go, b"on\n")
    outcome = running.ended()
    os.close(go)
    assert (outcome.code, outcome.err) == (0, "SIGTERM: draining\nclosed\n")
    assert outcome.out == "ready\naon\nbon\n"


def test_ctrl_c_after_sigterm_stops_at_once(project: Project):
    """With the exit code of the first signal."""
    project.write("flows.py", FLOW)
    running = project.start("flows:sleeping()", "--drain-timeout", "1h")
    assert running.line() == "ready"
    running.signal(signal.SIGTERM)
    assert running.line("stderr") == "SIGTERM: draining"
    running.signal(signal.SIGINT)
    outcome = running.ended()
    assert outcome.code == 143
    assert outcome.err == "SIGTERM: draining\nKeyboardInterrupt: stopping now\nclosed\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_drain_that_takes_too_long_is_ended(number: int, code: int, project: Project):
    """The message shows the line of the user's that was waited for."""
    project.write("flows.py", FLOW)
    running = project.start("flows:sleeping()", "--drain-timeout", "50ms")
    assert running.line() == "ready"
    running.signal(number)
    outcome = running.ended()
    assert outcome.code == code
    assert "closed\nerror: the drain was not over after 0.05 s" in outcome.err
    assert "in sleeping.<locals>.sleep\n              time.sleep(3600)\n" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("name", ["stubborn", "deaf"])
def test_code_that_will_not_stop_is_ended_with_its_process(name: str, project: Project):
    """Whether it catches everything, or is inside a call that no signal interrupts."""
    project.write("flows.py", FLOW)
    running = project.start(f"flows:{name}()", "--drain-timeout", "50ms")
    assert running.line() == "ready"
    running.signal(signal.SIGTERM)
    outcome = running.ended()
    assert outcome.code == 143
    assert outcome.err.endswith(
        "error: the flow's own code would not stop, so its process was ended\n"
    )


def test_a_process_that_the_flow_forked_has_its_own_signals(project: Project):
    """A signal to it is none to the run, and it isn't kept from ending as it would."""
    project.write("flows.py", FLOW)
    running = project.start("flows:forking()")
    child = int(running.line())
    os.kill(child, signal.SIGINT)
    assert running.line() == str(running.process.pid)
    assert running.line() == "7"
    running.signal(signal.SIGTERM)
    assert running.ended().code == 0


def test_waking_is_safe_anywhere_within_a_wait():
    """A signal handler may wake a waiter between any two lines of `wait`: no lock is in its way."""
    waiter = SystemWaiter()

    def wake(*_: object) -> object:
        waiter.wake()
        return wake

    def give_up(*_: object) -> None:
        pytest.fail("the waiter waits for itself")

    alarm, trace = signal.signal(signal.SIGALRM, give_up), sys.gettrace()
    signal.setitimer(signal.ITIMER_REAL, 10.0)
    sys.settrace(wake)
    try:
        waiter.wait(3600.0)
        waiter.wait(0.0)
    finally:
        sys.settrace(trace)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, alarm)


def test_everything_is_put_back():
    """Handlers, the wake-up descriptor and the guard thread, when no signal came."""
    before = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    threads = threading.active_count()
    signals = StopSignals(lambda: None, 5.0)
    with signals.watching():
        assert signal.getsignal(signal.SIGTERM) != before[1]
        assert threading.active_count() == threads + 1
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads
    assert signals.drained_code == Exit.DONE
