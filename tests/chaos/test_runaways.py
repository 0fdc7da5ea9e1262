"""Actors that get more messages than they can handle: memory is bounded, and the job goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.processes import ended, start

MEMORY = "--state-memory=16MB"
MANY, MANY_SOAKED = 60_000, 1_000_000

FLOW = """\
import os
from dataclasses import dataclass, field
from pathlib import Path
import engine.operators as op
from engine.connectors import FixedPartitionedSource, StatefulSourcePartition
from engine.connectors.files import FileSink
from engine.dataflow import Dataflow
from engine.operators.actors import Actor, actor, handles
from engine.runtime import _actor_node, _actor_state, _backlog

HERE = Path(__file__).parent
MANY = int(os.environ.get("MANY", 0))
KIND = os.environ["KIND"]
_backlog.PATIENCE_S = 0.2
_actor_node.FRESH_MAX = 5000
_actor_state.KEPT_MAX = 2000


@dataclass(frozen=True)
class Item:
    number: int
    text: str


class Loop(Actor):
    @handles(int)
    def again(self, ctx, times: int):
        for _ in range(times):
            ctx.tell(ctx.self, times)


class Maker(Actor):
    @handles(int)
    def make(self, ctx, first: int):
        if first < MANY:
            for number in range(first, first + 2000):
                ctx.tell(Hub.ref("hub"), Item(number, f"item {number}"))
            ctx.tell(ctx.self, first + 2000)

    @handles(str)
    def beat(self, ctx, text: str):
        ctx.emit(("", text))


class Hub(Actor):
    @handles(Item)
    def item(self, ctx, item: Item):
        ctx.emit(("", item.text))


class Part(StatefulSourcePartition):
    def __init__(self, at):
        self.at = at or 0

    def next_batch(self):
        self.at += 1
        if self.at == 1:
            return [(Loop.ref("loop"), int(KIND))] if KIND.isdigit() else [("maker", 0)]
        if not KIND.isdigit():
            raise StopIteration
        return [("maker", f"beat {self.at}")]

    def snapshot(self):
        return self.at


class Parts(FixedPartitionedSource):
    def list_parts(self):
        return ["all"]

    def build_part(self, step_id, for_part, resume_state):
        return Part(resume_state)


flow = Dataflow("flow")
s = op.input("in", flow, Parts())
acted = actor("act", s, Maker, Hub, Loop)
op.output("out", acted.out, FileSink(HERE / "out.txt"))
"""


@pytest.fixture(autouse=True)
def _flow(tmp_path: Path) -> None:
    tmp_path.joinpath("flows.py").write_text(FLOW, encoding="utf-8")


def lines(folder: Path) -> list[str]:
    """What was written up to now."""
    path = folder / "out.txt"
    return path.read_text(encoding="ascii").splitlines() if path.exists() else []


def wait_until(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something to happen while a process runs."""
    until_s = time.monotonic() + 60
    while not what():
        assert process.poll() is None, ended(process)
        assert time.monotonic() < until_s, "it never came"
        time.sleep(0.01)


def peak_mb(process: subprocess.Popen[str]) -> float:
    """The most memory that a process had."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1000


def epoch_of(folder: Path) -> int:
    """The newest epoch that is durable; 0 before the first."""
    return max((int(path.stem) for path in folder.glob("store/manifests/*.json")), default=0)


def let_pass(epochs: int, folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait for some more epochs."""
    goal = epoch_of(folder) + epochs
    wait_until(lambda: epoch_of(folder) >= goal, process)


def test_an_actor_that_sends_to_itself_for_ever_stops_nothing_else(tmp_path: Path):
    """Input goes on, epochs too, and a drain ends the job."""
    process = start(tmp_path, "-r", "store", "-s", "20ms", KIND="1")
    wait_until(lambda: len(lines(tmp_path)) > 200, process)
    let_pass(3, tmp_path, process)
    process.send_signal(signal.SIGTERM)
    said = ended(process)
    assert process.returncode == 0, said


def test_an_actor_that_doubles_its_messages_is_named_and_holds_up_the_input(
    tmp_path: Path, soak: int
):
    """Memory stays bounded for as long as it goes on; drained and started again it goes on."""
    for _ in range(2):
        process = start(tmp_path, "-r", "store", "-s", "20ms", MEMORY, KIND="2")
        let_pass(300 if soak else 30, tmp_path, process)
        beats = len(lines(tmp_path))
        let_pass(5, tmp_path, process)
        assert len(lines(tmp_path)) == beats
        peak = peak_mb(process)
        process.send_signal(signal.SIGTERM)
        said = ended(process)
        assert process.returncode == 0, said
        assert peak < 150, peak
    assert re.search(
        r"step 'flow.act' takes no input: .* more than 10000 messages wait .* of them for "
        r"Loop.ref\('loop'\)",
        said,
    ), said


def test_a_long_mailbox_is_handled_once_though_the_job_is_killed(tmp_path: Path, soak: int):
    """While it grows, and while it shrinks; in its order, with bounded memory."""
    many = MANY_SOAKED if soak else MANY
    process = None
    for done in (0.0, 0.2, 0.7):
        process = start(tmp_path, "-r", "store", "-s", "20ms", MEMORY, KIND="maker", MANY=str(many))
        wait_until(lambda done=done: len(lines(tmp_path)) > done * many, process)
        peak = peak_mb(process)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert peak < 150, peak
    process = start(tmp_path, "-r", "store", "-s", "20ms", MEMORY, KIND="maker", MANY=str(many))
    said = ended(process, 120)
    assert process.returncode == 0, said
    assert lines(tmp_path) == [f"item {number}" for number in range(many)]
