"""`kill -9` of a real run at random moments: its output is that of a run nobody killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.drill import COMMAND, EAGER, Drill, Load, Output, assert_same, ended

LOADS = (
    Load("0", 1000, 0.5),
    Load("10ms", 3000, 1.0),
    Load("100ms", 3000, 1.5),
    Load("1s", 3000, 4.0),
    Load("50ms", 20_000, 2.0, memory="1MB"),
)
RUNS = {"0": 2, "10ms": 2, "100ms": 1, "1s": 1, "50ms": 1}
RUNS_SOAK = 20
START_S_MAX = 0.4
"""About how long it takes until a run has recovered and reads."""
AFTER_CLAIM_S_MAX = 0.010
DRAIN_S_MAX = 0.1


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """As many runs as there is time for."""
    if "seed" in metafunc.fixturenames:
        soak = metafunc.config.getoption("--soak", default=False)
        runs = {load: RUNS_SOAK if soak else RUNS[load.interval] for load in LOADS}
        cases = [(load, seed) for load in LOADS for seed in range(runs[load])]
        ids = [f"{load.interval}-{seed}" for load, seed in cases]
        metafunc.parametrize(("load", "seed"), cases, ids=ids)


class Life:
    """One run of a drill, which is killed at some moment."""

    def __init__(self, drill: Drill, rng: random.Random, to_write: int, lives_left: int) -> None:
        self._drill = drill
        self._rng = rng
        self._to_write = to_write
        self._lives_left = lives_left
        self._process: subprocess.Popen[str]

    def live(self, end: str) -> int:
        """Run it until the end that is wanted; gives the exit code."""
        ends: dict[str, Callable[[], None]] = {
            "at work": self._kill_at_work,
            "at once": self._kill_at_once,
            "claiming": self._kill_after_claim,
            "draining": self._kill_in_drain,
        }
        self._before = self._drill.manifests()
        # Every other run uses the table, however short it is.
        self._process = self._drill.start(self._rng.choice([COMMAND, EAGER]))
        ends[end]()
        done = ended(self._process)
        sys.stdout.write(f"  {end}: exit code {done.returncode}\n")
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode

    def _kill_at_work(self) -> None:
        self._work()
        self._process.kill()

    def _kill_at_once(self) -> None:
        """While Python starts, the store is opened, or the first records are read."""
        self._wait_s(self._rng.uniform(0, START_S_MAX))
        self._process.kill()

    def _kill_after_claim(self) -> None:
        """Within milliseconds of the manifest that begins the generation: in the recovery."""
        self._wait_for(lambda: self._drill.manifests() > self._before)
        self._wait_s(self._rng.uniform(0, AFTER_CLAIM_S_MAX))
        self._process.kill()

    def _kill_in_drain(self) -> None:
        self._work()
        self._process.send_signal(signal.SIGTERM)
        self._wait_s(self._rng.uniform(0, DRAIN_S_MAX))
        self._process.kill()

    def _work(self) -> None:
        """Let it write some share of what is left, but for what later lives need."""
        share = self._rng.uniform(0, 1 / (self._lives_left + 1))
        lowest = self._to_write

        def is_done() -> bool:
            nonlocal lowest
            # The start cuts off what was not durable.
            size = self._drill.grown()
            lowest = min(lowest, size)
            claimed = self._drill.manifests() > self._before
            return claimed and size - lowest > share * (self._to_write - lowest)

        self._wait_for(is_done)

    def _wait_for(self, is_done: Callable[[], bool]) -> None:
        while self._process.poll() is None and not is_done():
            self._wait_s(0.001)

    def _wait_s(self, time_s: float) -> None:
        try:
            self._process.wait(time_s)
        except subprocess.TimeoutExpired:
            return


def lives(rng: random.Random) -> list[str]:
    """How the runs of a drill are to end: three kills at least, two of them within milliseconds."""
    ends = [["at work", "claiming"], ["at once"], ["draining"], ["at work"]]
    rng.shuffle(ends)
    return [end for group in ends for end in group]


def test_kills_change_nothing(
    tmp_path: Path, load: Load, seed: int, whole: Callable[[Load], Output]
) -> None:
    """Byte for byte in the files, row for row in the database, whatever the epochs' length."""
    wanted = whole(load)
    sys.stdout.write(f"seed {seed}, epochs of {load.interval}:\n")
    rng = random.Random(f"{seed} {load.interval}")
    drill = Drill(tmp_path / "killed", load).prepare()
    ends, kills = lives(rng), 0
    for number, end in enumerate(ends):
        life = Life(drill, rng, len(wanted["out.txt"]), len(ends) - number)
        kills += life.live(end) == -signal.SIGKILL
    assert kills >= len(ends) - ends.count("draining")
    assert_same(drill.finish(), wanted)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Load], Output]:
    """The output of a run that nobody killed."""
    outputs: dict[int, Output] = {}

    def of(load: Load) -> Output:
        if load.lines not in outputs:
            folder = tmp_path_factory.mktemp("drill") / "whole"
            outputs[load.lines] = Drill(folder, Load("10s", load.lines)).prepare().finish()
            assert outputs[load.lines]["out.txt"].count(b"\n") == load.lines
        return outputs[load.lines]

    return of
