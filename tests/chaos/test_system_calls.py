"""A real run dies, or is refused, at each system call that makes a file's bytes or its name safe.

As `test_faulty_disk`, but by strace, which sees the calls of RocksDB and SQLite too.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from tests.chaos.drill import EAGER, assert_failed
from tests.chaos.scene import Scene, some

STRACE = shutil.which("strace")
KILLED_AT = (
    *("fsync", "fdatasync", "link", "linkat", "rename", "renameat", "renameat2"),
    *("openat", "ftruncate", "unlink"),
)
FAILING = [("fsync", "EIO"), ("fdatasync", "EIO"), ("pwrite64", "ENOSPC"), ("write", "ENOSPC")]
KILLS, FAILURES = 3, 2
"""How many points are tried if there isn't time for all. Not all errors are one to whoever gets
them, so that of the second there have to be some."""
Point = tuple[str, int]
"""A system call, and its number among those of its kind that its thread makes."""


def can_trace() -> bool:
    """Whether strace is there and may trace here: containers often forbid it."""
    if STRACE is None:
        return False
    ran = subprocess.run([STRACE, "-o", "/dev/null", "true"], capture_output=True, check=False)
    return ran.returncode == 0


pytestmark = pytest.mark.skipif(
    not can_trace(), reason="strace is missing or not allowed: crashes at system calls not tried"
)


def traced(scene: Scene, calls: Sequence[str], inject: str = "") -> list[str]:
    """The command of a run whose system calls are written to the scene's journal."""
    injection = ["-e", f"inject={inject}"] if inject else []
    options = ["-f", "-qq", "-y", "-o", str(scene.journal), "-e", f"trace={','.join(calls)}"]
    return [str(STRACE), *options, *injection, *EAGER]


def points(scene: Scene, calls: Sequence[str]) -> list[Point]:
    """All calls on files of the scene that change something, in a run to which nothing happens."""
    done = scene.drill.run(traced(scene, calls))
    assert done.returncode == 0, done.stderr
    counts: Counter[tuple[str, str]] = Counter()
    found: dict[Point, None] = {}
    for line in scene.calls():
        thread, text = line.split(maxsplit=1)
        call, is_call, _ = text.partition("(")
        if not is_call or call not in calls:
            continue
        counts[thread, call] += 1
        changes = call != "openat" or "O_CREAT" in text
        if changes and f"{scene.drill.folder}" in text:
            found[call, counts[thread, call]] = None
    return list(found)


@pytest.mark.parametrize("name", ["fresh", "killed", "dealt"])
def test_a_kill_at_a_system_call(name: str, scene_of: Callable[[str], Scene], soak: bool) -> None:
    """Of a first run, of one that recovers from a kill, of one that deals the state anew."""
    scene, kills = scene_of(name), 0
    found = points(scene, KILLED_AT)
    assert len(found) > 50
    for call, number in some(found, name, KILLS, soak=soak):
        scene.restore()
        done = scene.drill.run(traced(scene, [call], f"{call}:signal=SIGKILL:when={number}"))
        sys.stdout.write(f"killed at {call} {number}: exit code {done.returncode}\n")
        # RocksDB's own threads don't work in step with ours, so a run may have fewer calls.
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        kills += done.returncode == -signal.SIGKILL
        scene.check()
    assert kills > 0


@pytest.mark.parametrize(("call", "error"), FAILING)
def test_an_error_of_a_system_call(
    call: str, error: str, scene_of: Callable[[str], Scene], soak: bool
) -> None:
    """Whoever made it: the run ends with one error, and the last epoch is intact."""
    scene, failed = scene_of("killed"), 0
    for _, number in some(points(scene, [call]), f"{call} {error}", FAILURES, soak=soak):
        scene.restore()
        done = scene.drill.run(traced(scene, [call], f"{call}:error={error}:when={number}"))
        line = next((line for line in scene.calls() if "(INJECTED)" in line), "none")
        sys.stdout.write(f"{error} at {line}\nexit code {done.returncode} {done.stderr}\n")
        # Some files RocksDB and SQLite can do without, such as RocksDB's diary.
        assert done.returncode in (0, 1)
        if done.returncode:
            assert_failed(done.returncode, done.stderr)
            # What the disk refuses is no fault of what is on it.
            assert "damaged" not in done.stderr
            failed += 1
        scene.check()
    assert failed > 0
