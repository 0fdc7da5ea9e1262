"""`kill -9` of real runs while dead letters are written: each bad record is one of them, once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

NUMBERS = range(600)
BAD = sorted(n for n in NUMBERS if n % 6 == 5 or n % 7 == 0)
KILLS = 4
LIFE_S_MAX = 60


class Job:
    """A flow in a folder, started again and again."""

    def __init__(self, folder: Path, letters: str) -> None:
        self._folder = folder
        self._env = {**os.environ, "DRILL_FOLDER": str(folder), "LETTERS": letters}

    def start(self, *, cured: bool = False) -> subprocess.Popen[str]:
        env = {**self._env, "CURED": "1"} if cured else self._env
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "engine.run", "tests.chaos.letters_flow:flow"),
                *("-r", str(self._folder / "store"), "-s", "30ms", "-p", "2"),
            ],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def kill_at_work(self, rng: random.Random, *, cured: bool = False) -> None:
        """Start it, let it write for a moment, and kill all of its processes."""
        process = self.start(cured=cured)
        end_s = time.monotonic() + LIFE_S_MAX
        size, more = self.written(), rng.randint(1, 300)
        while process.poll() is None and time.monotonic() < end_s:
            if self.written() > size + more:
                break
            size = min(size, self.written())
            try:
                process.wait(0.002)
            except subprocess.TimeoutExpired:
                continue
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    def finish(self, *, cured: bool = False) -> None:
        process = self.start(cured=cured)
        _, said = process.communicate(timeout=LIFE_S_MAX)
        assert process.returncode == 0, said

    def written(self) -> int:
        out = self._folder / "out.txt"
        return out.stat().st_size if out.exists() else 0

    def out(self) -> list[int]:
        return sorted(map(int, (self._folder / "out.txt").read_text().split()))

    def dlq(self, *arguments: str) -> str:
        command, *rest = arguments
        done = subprocess.run(
            [sys.executable, "-m", "engine.dlq", command, str(self._folder / "store"), *rest],
            capture_output=True,
            text=True,
            check=True,
            timeout=LIFE_S_MAX,
        )
        return done.stdout

    def kept(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.dlq("ls", "--json").splitlines()]


def number_of(letter: dict[str, Any]) -> int:
    """The number that a letter is about."""
    record = letter["record"]
    if isinstance(record, str):
        return int(record.strip("()").rpartition(", ")[2])
    return record if isinstance(record, int) else record[1]


@pytest.mark.parametrize("letters", ["file", "store"])
def test_each_record_comes_out_or_is_a_letter_once(letters: str, tmp_path: Path):
    """However often the run is killed, two processes and all."""
    job, rng = Job(tmp_path, letters), random.Random(letters)
    for _ in range(KILLS):
        job.kill_at_work(rng)
    job.finish()
    if letters == "file":
        lines = (tmp_path / "dead.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
    else:
        found = job.kept()
    assert sorted(map(number_of, found)) == BAD
    assert len({letter["letter_id"] for letter in found}) == len(found)
    assert job.out() == sorted(set(NUMBERS) - set(BAD))


def test_what_is_put_back_comes_out_once(tmp_path: Path):
    """Killed again and again at the very start, when letters leave the store."""
    job, rng = Job(tmp_path, "store"), random.Random(7)
    job.kill_at_work(rng)
    job.finish()
    assert len(job.kept()) == len(BAD)
    job.dlq("replay", "--all")
    kill_soon(job, rng, cured=True)
    job.finish(cured=True)
    assert job.out() == list(NUMBERS)
    assert job.kept() == []


def test_what_is_put_back_before_a_task_becomes_one_task(tmp_path: Path):
    """Its letters say how often it was tried since; it comes out once, killed or not."""
    job, rng = Job(tmp_path, "tasks"), random.Random(3)
    for _ in range(KILLS):
        job.kill_at_work(rng)
    job.finish()
    first = tries_of(job.kept())
    # Once it is put back it is tried anew, and fails again.
    job.dlq("replay", "--all", "--step", "letters.early")
    kill_soon(job, rng)
    job.finish()
    kept = job.kept()
    assert tries_of(kept) == first == {number: 2 if number % 6 == 5 else 1 for number in BAD}
    assert len(kept) == len(BAD)
    job.dlq("replay", "--all")
    kill_soon(job, rng, cured=True)
    job.finish(cured=True)
    assert job.out() == list(NUMBERS)
    assert job.kept() == []


def kill_soon(job: Job, rng: random.Random, *, cured: bool = False) -> None:
    """Start it a few times, and kill it at the very start, when letters leave the store."""
    for _ in range(KILLS):
        process = job.start(cured=cured)
        try:
            process.wait(rng.uniform(0.3, 1.2))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def tries_of(letters: list[dict[str, Any]]) -> dict[int, int]:
    return {number_of(letter): letter["attempts"] for letter in letters}
