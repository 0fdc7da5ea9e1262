"""Messages whose handlers fail or end the worker's own process: the job comes past them."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.processes import ended, start

MESSAGES = 120

FLOW = f"""\
import os, signal, time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
import engine.operators as op
from engine.connectors.files import FileSink
from engine.dataflow import Dataflow
from engine.operators.actors import Actor, Escalate, Exponential, Resume, Retry, handles
from engine.testing import TestingSource

HERE = Path(__file__).parent
LETHAL = {{int(n) for n in os.environ.get("LETHAL", "").split()}}
FAILING = {{int(n) for n in os.environ.get("FAILING", "").split()}}
COUNT = int(os.environ.get("COUNT", "{MESSAGES}"))
THEN = Escalate() if os.environ.get("THEN") == "escalate" else Resume()


class Sender(Actor):
    @handles(int)
    def send(self, ctx, n: int):
        ctx.tell(Receiver.ref(n % 7), n)


class Receiver(Actor):
    supervise = Retry(
        attempts=5, backoff=Exponential(timedelta(seconds=0.3), factor=1, jitter=0), then=THEN
    )

    @dataclass
    class State:
        count: int = 0

    @handles(int)
    def take(self, ctx, n: int):
        self.state.count += 1
        ctx.emit(("", str(n)))
        time.sleep(float(os.environ.get("TAKES_S", "0.001")))
        if n in FAILING:
            with (HERE / "tries.txt").open("a") as tries:
                print(n, file=tries)
            raise ValueError
        if n in LETHAL:
            if n % 2:
                os._exit(7)
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(10)


flow = Dataflow("flow")
s = op.input("in", flow, TestingSource([(n % 3, n) for n in range(COUNT)], batch_size=5))
acted = op.actor("act", s, Sender, Receiver)
op.output("out", acted.out, FileSink(HERE / "out.txt"))
dead = op.map("line", acted.dead_letters, lambda d: ("", f"{{d.message}} {{d.tries}} {{d.reason}}"))
op.output("dead", dead, FileSink(HERE / "dead.txt"))
"""


def lines(path: Path) -> Counter[str]:
    """The lines of a file, if it is there."""
    return Counter(path.read_text(encoding="ascii").splitlines() if path.exists() else [])


def all_but(*lethal: int) -> dict[str, int]:
    """What comes out, once each."""
    return {str(n): 1 for n in range(MESSAGES) if n not in lethal}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the flow is."""
    tmp_path.joinpath("flows.py").write_text(FLOW, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("interval", ["20ms", "10"])
@pytest.mark.parametrize(("lethal", "code"), [(58, -signal.SIGSEGV), (57, 7)])
def test_a_message_that_ends_the_process_is_a_dead_letter(
    folder: Path, interval: str, lethal: int, code: int
):
    """After three deaths of it that were seen, and the one that had them looked for."""
    variables = {"LETHAL": str(lethal)}
    for _ in range(4):
        process = start(folder, "-r", "store", "-s", interval, **variables)
        said = ended(process)
        assert process.returncode == code, said
    process = start(folder, "-r", "store", "-s", interval, **variables)
    said = ended(process)
    assert process.returncode == 0, said
    why = "WorkerProcessError: the worker's process died 3 times while this message was handled"
    assert lines(folder / "dead.txt") == {f"{lethal} 1 {why}": 1}
    assert lines(folder / "out.txt") == all_but(lethal)


def test_processes_are_replaced_until_it_is_known_which_message_it_is(folder: Path):
    """By the job itself, where there are several; two messages for different actors."""
    process = start(folder, "-r", "store", "-s", "20ms", "-p", "2", LETHAL="58 59")
    said = ended(process, 120)
    assert process.returncode == 0, said
    assert sorted(int(line.split()[0]) for line in lines(folder / "dead.txt")) == [58, 59]
    assert lines(folder / "out.txt") == all_but(58, 59)


def test_without_a_directive_for_it_the_run_ends_and_says_why(folder: Path):
    """And who has mended it and starts again loses nothing."""
    variables = {"LETHAL": "58", "THEN": "escalate"}
    for _ in range(4):
        assert "error" not in ended(start(folder, "-r", "store", "-s", "20ms", **variables))
    process = start(folder, "-r", "store", "-s", "20ms", **variables)
    said = ended(process)
    assert process.returncode == 1, said
    assert "record: 58" in said
    assert "Receiver.ref(2)" in said
    assert "the worker's process died 3 times while this message was handled" in said
    process = start(folder, "-r", "store", "-s", "20ms", LETHAL="")
    said = ended(process)
    assert process.returncode == 0, said
    assert lines(folder / "out.txt") == all_but()


def grown(process: subprocess.Popen[str], path: Path) -> None:
    """Wait until a file has more lines."""
    known, until_s = lines(path), time.monotonic() + 60
    while lines(path) == known:
        assert process.poll() is None
        assert time.monotonic() < until_s
        time.sleep(0.005)


def test_tries_count_across_kills(folder: Path):
    """A message that always fails is a dead letter after all its tries, though most were before."""
    arguments = ("-r", "store", "-s", "20ms")
    variables = {"FAILING": "3", "COUNT": "3000"}
    for _ in range(3):
        process = start(folder, *arguments, **variables, TAKES_S="0.01")
        grown(process, folder / "tries.txt")
        # The count is saved when what comes of later records is out.
        for _ in range(3):
            grown(process, folder / "out.txt")
        process.kill()
        process.communicate()
    before = lines(folder / "tries.txt")["3"]
    process = start(folder, *arguments, **variables, TAKES_S="0")
    said = ended(process)
    assert process.returncode == 0, said
    assert lines(folder / "dead.txt") == {"3 5 ValueError": 1}
    assert 3 <= before <= 5
    assert lines(folder / "tries.txt")["3"] <= 5 + 1
    assert "handlers of its actors have raised" in said
    out = lines(folder / "out.txt")
    assert out == {str(n): 1 for n in range(3000) if n != 3}


def test_kills_from_outside_are_no_messages_fault(folder: Path):
    """Whatever was being handled comes out in the end."""
    for _ in range(4):
        process = start(folder, "-r", "store", "-s", "20ms", LETHAL="", TAKES_S="0.02")
        grown(process, folder / "out.txt")
        process.kill()
        process.communicate()
    process = start(folder, "-r", "store", "-s", "10", LETHAL="")
    said = ended(process)
    assert process.returncode == 0, said
    assert lines(folder / "out.txt") == all_but()
    assert lines(folder / "dead.txt") == {}
