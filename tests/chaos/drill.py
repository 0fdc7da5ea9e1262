"""A drill: the flow of `drill_flow` run by the real command, in a folder of its own.

Whatever happens to its runs, once one of them has ended well its output must be that of a drill
to which nothing happened.
"""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FLOW = Path(__file__).with_name("drill_flow.py")
REPOSITORY = Path(__file__).parents[2]
WORDS = 16
HANG_S = 45.0
"""A run that takes longer than this hangs."""
FILES = ("out.txt", "totals.txt", "joined.txt", "sums.txt")
FOLDERS = ("lists", "ticks")
COMMAND = (sys.executable, "-m", "engine.run")
EAGER = (sys.executable, "-m", "tests.chaos.eager")
"""The same, with a store that brings its log into the table often."""

Output = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Load:
    """How much a drill has to do."""

    interval: str
    """Between epochs, as the command line takes it."""
    lines: int
    """Of each of its three inputs."""
    seconds: float = 0.0
    """At least so long does it take to read them."""
    memory: str | None = None
    """The bound on the states in memory, as the command line takes it."""

    def pause_ms(self) -> float:
        """How long the sources wait after each batch."""
        return 1000 * self.seconds / (self.lines / 20)


@dataclass(frozen=True)
class Drill:
    """A folder with the input, the output and the store of one drill."""

    folder: Path
    load: Load

    @property
    def store(self) -> Path:
        """The folder of its recovery store."""
        return self.folder / "store"

    def prepare(self) -> Drill:
        """Make the folder and the input."""
        self.folder.mkdir()
        for name in FOLDERS:
            (self.folder / name).mkdir()
        rng, count = random.Random(11), self.load.lines
        lines = [f"word{rng.randrange(WORDS)} {number}\n" for number in range(count)]
        rows = [f"{rng.choice('abcdef')},{rng.randrange(100)}\n" for _ in range(count)]
        self._write("in.txt", lines)
        self._write("in.csv", ["account,amount\n", *rows])
        self._write("timed.txt", [f"{number}\n" for number in range(count)])
        with sqlite3.connect(self.folder / "out.db") as database:
            database.execute("CREATE TABLE counts (word TEXT, line TEXT)")
        database.close()
        return self

    def _write(self, name: str, lines: Sequence[str]) -> None:
        (self.folder / name).write_text("".join(lines), encoding="utf-8")

    def arguments(self, command: Sequence[str] | None = None) -> list[str]:
        """The command line of a run."""
        return [
            *(command or COMMAND),
            *(str(FLOW), "-r", str(self.store), "-s", self.load.interval),
            *(["--state-memory", self.load.memory] if self.load.memory else []),
        ]

    def environment(self) -> dict[str, str]:
        """The environment of a run."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("ENGINE_")}
        return {
            **kept,
            "DRILL_FOLDER": str(self.folder),
            "DRILL_LINES": str(self.load.lines),
            "DRILL_PAUSE_MS": str(self.load.pause_ms()),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def start(self, command: Sequence[str] | None = None) -> subprocess.Popen[str]:
        """Start a run."""
        return subprocess.Popen(
            self.arguments(command),
            cwd=REPOSITORY,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: Sequence[str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run it to its end, however it ends. One that hangs is killed and fails the test."""
        return ended(self.start(command))

    def finish(self) -> Output:
        """Run it to its good end, and give the output."""
        done = self.run()
        assert done.returncode == 0, done.stderr
        assert errors_of(done.stderr) == ""
        return self.output()

    def output(self) -> Output:
        """All that there is to compare."""
        names = [*FILES, *(f"{d}/{p.name}" for d in FOLDERS for p in self._parts(d))]
        files = {name: (self.folder / name).read_bytes() for name in names}
        for name in names:
            if name.startswith("ticks/"):
                # In which order timers fire is open. That each does so once is not.
                files[name] = b"".join(sorted(files[name].splitlines(keepends=True)))
        database = sqlite3.connect(self.folder / "out.db")
        rows = database.execute("SELECT word, line FROM counts ORDER BY rowid").fetchall()
        database.close()
        return {**files, "rows": rows}

    def _parts(self, folder: str) -> list[Path]:
        return sorted((self.folder / folder).iterdir())

    def manifests(self) -> list[str]:
        """The names of the store's manifests."""
        folder = self.store / "manifests"
        return sorted(path.name for path in folder.glob("*.json")) if folder.is_dir() else []

    def grown(self) -> int:
        """How many bytes the file has to which every line is written."""
        path = self.folder / "out.txt"
        return path.stat().st_size if path.exists() else 0


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for the end of a run."""
    try:
        out, err = process.communicate(timeout=HANG_S)
    except subprocess.TimeoutExpired:
        process.kill()
        _, err = process.communicate()
        raise AssertionError(f"the run hangs; it has said: {err!r}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def errors_of(said: str) -> str:
    """What a run has said to standard error, less what is for information only."""
    lines = said.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("info: "))


def assert_failed(code: int, said: str, *named: str) -> None:
    """The run has failed in an orderly way: one block, without the engine's own frames.

    Args:
        code: Its exit code.
        said: What it said to standard error.
        named: What must be in that.
    """
    assert code == 1, said
    block = errors_of(said)
    assert block.startswith("error: ")
    assert "Traceback" not in block
    assert [name for name in named if name not in block] == []


def assert_same(found: Output, whole: Output) -> None:
    """The output is that of a run to which nothing happened; says what differs."""
    assert found.keys() == whole.keys()
    assert [name for name in whole if found[name] != whole[name]] == []
