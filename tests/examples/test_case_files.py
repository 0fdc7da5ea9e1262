"""The example with operators, tasks and actors: exact, and still so when it is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from examples.case_files import WRONG, made_payment, score, with_payment
from tests.examples.running import completed
from tests.tidy.tree import ROOT

PAYMENTS = 2000


def expected_lines() -> tuple[Counter[str], Counter[str]]:
    """What is said of payments, and how many cases each city has, reckoned without the engine."""
    habits, said, customers = {}, Counter[str](), {}
    for payment in map(made_payment, range(PAYMENTS)):
        habits[payment.customer], compared = with_payment(habits.get(payment.customer), payment)
        _, scored = score((payment.customer, compared))
        if scored.score >= WRONG:
            said[f"{payment.customer}: payment {payment.number} looks wrong ({scored.score})"] += 1
            customers[payment.customer] = payment.city
    return said, Counter(customers.values())


def check(folder: Path) -> None:
    """Each wrong payment is told once; the cases of each city are numbered without a gap."""
    said, cases = expected_lines()
    lines = folder.joinpath("cases.txt").read_text().splitlines()
    opened = [found for line in lines if (found := re.fullmatch(r"\w+: case (\w+)-(\d+)", line))]
    assert Counter(line for line in lines if ": case " not in line) == said
    numbers = sorted((found[1], int(found[2])) for found in opened)
    assert numbers == sorted((city, n + 1) for city, many in cases.items() for n in range(many))
    assert len(lines) == sum(said.values()) + len(numbers)


def command(every_s: float, *options: str) -> list[str]:
    return [
        *("-m", "engine.run", f"examples.case_files:made({PAYMENTS}, {every_s})"),
        *("-r", "state", "-s", "50ms", *options),
    ]


@pytest.mark.parametrize("how", ["-w 1", "-p 2"])
def test_case_files_are_exact_though_the_job_is_killed(how: str, tmp_path: Path):
    """Twice with `kill -9`, while it is at work, and started again."""
    out = tmp_path / "cases.txt"
    for lines in (5, 15):
        process = subprocess.Popen(
            [sys.executable, *command(0.01, *how.split())],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until_s = time.monotonic() + 60
        while not out.exists() or len(out.read_text().splitlines()) < lines:
            assert process.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = completed(*command(0.0, *how.split()), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check(tmp_path)
