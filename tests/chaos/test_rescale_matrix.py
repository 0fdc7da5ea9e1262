"""From every number of workers to every other one, by drains and by `kill -9`: nothing changes."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.chaos.processes import ended, start

CHAINS = ((1, 2, 1, 3, 1), (1, 4, 2, 3, 2), (2, 4, 3, 4, 1))
"""Numbers of workers of runs on the same store. Each pair of different ones up to 4 is in there."""
CHAINS_SOAK, CHAIN_SOAK, WORKERS_SOAK = 30, 9, 6
FILES, LINES, KEYS = 7, 1000, 5
FLOW = f"""\
import os
from datetime import datetime, timedelta, UTC
import engine.operators as op
from engine.connectors import StatefulSourcePartition
from engine.connectors.files import DirSink, DirSource, FileSink
from engine.dataflow import Dataflow

LAST = os.environ["LAST"]


class Paced(DirSource):
    def build_part(self, step_id, for_part, resume_state):
        return PacedPart(super().build_part(step_id, for_part, resume_state))


class PacedPart(StatefulSourcePartition):
    '''Takes its time and doesn't end, but for the last run.'''

    def __init__(self, part):
        self.part, self.awake = part, None

    def next_batch(self):
        if not LAST:
            self.awake = datetime.now(UTC) + timedelta(milliseconds=20)
        try:
            return self.part.next_batch()
        except StopIteration:
            if LAST:
                raise
            return []

    def next_awake(self):
        return self.awake

    def snapshot(self):
        return self.part.snapshot()

    def close(self):
        self.part.close()


def number_of(line):
    return int(line.split()[1])


def count(n, line):
    n = (n or 0) + 1
    return n, f"{{line}} {{n}}"


flow = Dataflow("flow")
lines = op.input("in", flow, Paced("in", batch_size=10))

keyed = op.key_on("key", lines, lambda line: line.split()[0])
counted = op.stateful_map("count", keyed, count)
op.output("counted", counted, DirSink("counted", 4))

last_digits = op.key_on("digit", lines, lambda line: number_of(line) % 10)
totals = op.fold_final("total", last_digits, int, lambda total, line: total + number_of(line))
op.output("totals", op.map("tell", totals, lambda pair: ("", f"{{pair}}")), FileSink("totals.txt"))

sooner = op.key_on("sooner", lines, lambda line: (line.split()[0], number_of(line)))
later = op.map("later", sooner, lambda pair: ((pair[0][0], pair[0][1] - {LINES // 4}), pair[1]))
joined = op.join("join", sooner, later)
op.output("joined", op.map("show", joined, lambda pair: ("", f"{{pair}}")), FileSink("joined.txt"))
"""


@dataclass(frozen=True)
class Output:
    """All that came out."""

    counted: Mapping[str, Sequence[str]]
    """The lines of each key, in order, with the file that they are in."""
    joined: Sequence[str]
    totals: Sequence[str]


class Job:
    """A folder with the flow, its input and its output."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "flows.py").write_text(FLOW, encoding="utf-8")
        for name in ("in", "counted"):
            (folder / name).mkdir()
        rng = random.Random(5)
        for file in range(FILES):
            keys = [f"key{file}{rng.randrange(KEYS)}" for _ in range(LINES)]
            lines = [f"{key} {number}\n" for number, key in enumerate(keys)]
            (folder / "in" / f"{file}.txt").write_text("".join(lines), encoding="utf-8")

    def start(self, layout: Sequence[str], *, last: bool) -> subprocess.Popen[str]:
        """Start a run; all but the last one take their time and don't end by themselves."""
        arguments = [*layout, "-r", "store", "-s", "0.03"]
        return start(self.folder, *arguments, LAST="1" if last else "")

    def finish(self, layout: Sequence[str]) -> str:
        """Run it to its end; gives what was said."""
        process = self.start(layout, last=True)
        said = ended(process)
        assert process.returncode == 0, said
        return said

    def written(self) -> int:
        """How many bytes are in the files to which each line is written."""
        return sum(path.stat().st_size for path in (self.folder / "counted").iterdir())

    def durable(self) -> tuple[int, int]:
        """The number of workers that the newest manifest was made by, and its epoch."""
        found = sorted((self.folder / "store" / "manifests").glob("*.json"))
        try:
            text = found[-1].read_text(encoding="utf-8") if found else ""
        except FileNotFoundError:
            # Meanwhile newer ones have come, and it has gone.
            return 0, 0
        workers, epoch = (re.search(rf'"{name}": (\d+)', text) for name in ("workers", "epoch"))
        return (int(workers[1]), int(epoch[1])) if workers and epoch else (0, 0)

    def output(self) -> Output:
        """All that there is to compare."""
        counted: dict[str, list[str]] = defaultdict(list)
        for path in (self.folder / "counted").iterdir():
            for line in path.read_text(encoding="utf-8").splitlines():
                counted[f"{line.split()[0]} in {path.name}"].append(line)
        return Output(counted, self._sorted("joined.txt"), self._sorted("totals.txt"))

    def _sorted(self, name: str) -> list[str]:
        return sorted((self.folder / name).read_text(encoding="utf-8").splitlines())


def layout_of(workers: int, rng: random.Random) -> list[str]:
    """So many workers, in some number of processes."""
    processes = rng.choice([count for count in range(1, workers + 1) if workers % count == 0])
    return ["-p", str(processes), "-w", str(workers // processes)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Output:
    """The output of one worker that nobody stopped."""
    job = Job(tmp_path_factory.mktemp("whole"))
    job.finish([])
    output = job.output()
    assert sum(map(len, output.counted.values())) == FILES * LINES
    return output


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "chain" in metafunc.fixturenames:
        chains: list[Sequence[int]] = list(CHAINS)
        rng = random.Random(1)
        for _ in range(CHAINS_SOAK if metafunc.config.getoption("--soak", default=False) else 0):
            chain = [1]
            while len(chain) < CHAIN_SOAK:
                chain.append(rng.choice([n for n in range(1, WORKERS_SOAK + 1) if n != chain[-1]]))
            chains.append(chain)
        ids = ["-".join(map(str, chain)) for chain in chains]
        cases = [(chain, seed) for seed, chain in enumerate(chains)]
        metafunc.parametrize(("chain", "seed"), cases, ids=ids)


def test_all_pairs_are_tried():
    """Of up to four workers; there are twelve."""
    found = {pair for chain in CHAINS for pair in pairwise(chain)}
    assert found == {(n, m) for n in range(1, 5) for m in range(1, 5) if n != m}


def test_any_number_of_workers_goes_on(
    tmp_path: Path, chain: Sequence[int], seed: int, whole: Output
):
    """Each run does its share; whether it is drained or killed, the next one does the rest."""
    rng, job = random.Random(seed), Job(tmp_path)
    size = sum(len(line) + 1 for lines in whole.counted.values() for line in lines)
    said = ""
    for run, workers in enumerate(chain):
        layout = layout_of(workers, rng)
        if run == len(chain) - 1:
            said = job.finish(layout)
        else:
            kill = (run + seed) % 2 == 1
            said = stopped(job, layout, workers, (run + 1) * size // len(chain), kill=kill)
            assert job.written() < size
        if run > 0:
            assert f"re-sharding the store from {chain[run - 1]} to {workers} worker" in said
    assert job.output() == whole


def stopped(job: Job, layout: Sequence[str], workers: int, size: int, *, kill: bool) -> str:
    """A run that is stopped when so much is written and some of its epochs are durable."""
    _, before = job.durable()
    process = job.start(layout, last=False)
    until_s = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < until_s:
        made_by, epoch = job.durable()
        if made_by == workers and epoch >= before + 2 and job.written() >= size:
            break
        time.sleep(0.005)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL) if kill else process.send_signal(signal.SIGTERM)
    said = ended(process)
    assert process.returncode == (-signal.SIGKILL if kill else 0), said
    return said
