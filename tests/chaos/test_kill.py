"""`kill -9` of a real run at random moments: its output is that of a run nobody killed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

FLOW = Path(__file__).with_name("drill_flow.py")
KILLS = 3
LINES = 30_000


def lines_of_input() -> str:
    rng = random.Random(11)
    return "".join(f"word{rng.randrange(300)} {number}\n" for number in range(LINES))


def run(folder: Path, *, kill_after_bytes: int | None) -> int:
    """Run the command once; kill it when its file has grown by so much. Gives the exit code."""
    out, store = folder / "out.txt", folder / "store"
    before = out.stat().st_size if out.exists() else 0
    command = [sys.executable, "-m", "engine.run", str(FLOW), "-r", str(store), "-s", "20ms"]
    process = subprocess.Popen(
        command, env={**os.environ, "DRILL_FOLDER": str(folder)}, stderr=subprocess.PIPE, text=True
    )
    while kill_after_bytes is not None and process.poll() is None:
        if out.exists() and out.stat().st_size - before > kill_after_bytes:
            process.kill()
            break
    _, errors = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), errors
    return process.returncode


def prepare(folder: Path) -> Path:
    folder.mkdir()
    (folder / "in.txt").write_text(lines_of_input(), encoding="utf-8")
    with sqlite3.connect(folder / "out.db") as database:
        database.execute("CREATE TABLE counts (word TEXT, line TEXT)")
    database.close()
    return folder


def output_of(folder: Path) -> tuple[bytes, bytes, list[tuple[str, str]]]:
    database = sqlite3.connect(folder / "out.db")
    rows = database.execute("SELECT word, line FROM counts ORDER BY rowid").fetchall()
    database.close()
    return (folder / "out.txt").read_bytes(), (folder / "totals.txt").read_bytes(), rows


@pytest.mark.parametrize("seed", range(3))
def test_kills_change_nothing(tmp_path: Path, seed: int, whole: tuple[bytes, bytes, list[object]]):
    """Byte for byte in the files, row for row in the database."""
    rng, folder, kills = random.Random(seed), prepare(tmp_path / "killed"), 0
    while run(folder, kill_after_bytes=rng.randrange(120_000) if kills < KILLS else None) != 0:
        kills += 1
    assert kills > 0
    assert output_of(folder) == whole


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, list[tuple[str, str]]]:
    """The output of a run that nobody killed."""
    folder = prepare(tmp_path_factory.mktemp("drill") / "whole")
    assert run(folder, kill_after_bytes=None) == 0
    return output_of(folder)
