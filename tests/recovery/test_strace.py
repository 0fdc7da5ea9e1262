"""A real process is killed at, or refused, each fsync, link and rename that it makes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.recovery.traced import KEYS, Traced

REPOSITORY = Path(__file__).parents[2]
STRACE = shutil.which("strace")
CALLS = ("fsync", "fdatasync", "link", "rename")
PHASES = ("commit", "resume", "rescale")
DEFAULT_POINTS = 2


def can_trace() -> bool:
    """Whether strace is there and may trace here: containers often forbid it."""
    if STRACE is None:
        return False
    ran = subprocess.run([STRACE, "-o", "/dev/null", "true"], capture_output=True, check=False)
    return ran.returncode == 0


pytestmark = pytest.mark.skipif(
    not can_trace(), reason="strace is missing or not allowed: crashes at system calls not tried"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two workers with three epochs, of which one is applied."""
    root = tmp_path_factory.mktemp("made") / "store"
    job = Traced(root)
    job.commit()
    for store in job.stores:
        store.apply_all()
    job.commit()
    job.commit()
    job.close()
    return root


def trace(inject: str, phase: str, root: Path) -> subprocess.CompletedProcess[str]:
    """Run a phase in a child, with a fault injected into some of its system calls."""
    assert STRACE is not None
    return subprocess.run(
        [
            *(STRACE, "-f", "-qq", "-o", str(root.with_name("trace"))),
            *("-e", f"trace={inject.split(':', maxsplit=1)[0]}", "-e", f"inject={inject}"),
            *(sys.executable, "-m", "tests.recovery.traced", phase, str(root)),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def count(call: str, phase: str, root: Path) -> int:
    """How many of these calls the busiest thread of a phase makes: strace counts by thread."""
    ran = trace(f"{call}:delay_exit=0", phase, root)
    assert ran.returncode == 0, ran.stderr
    lines = root.with_name("trace").read_text().splitlines()
    threads = Counter(line.split(maxsplit=1)[0] for line in lines if f"{call}(" in line)
    return max(threads.values(), default=0)


def points(total: int, soak: bool) -> list[int]:
    """Which of the calls to try: all of them if there is time."""
    if soak or total <= DEFAULT_POINTS:
        return list(range(1, total + 1))
    step = total // DEFAULT_POINTS
    return list(range(total, 0, -step))[:DEFAULT_POINTS]


def check(root: Path, phase: str, said: str) -> None:
    """The store goes on from three epochs or, if a fourth was tried, from four."""
    job = Traced(root)
    epoch = job.stores[0].committed
    allowed = [4] if "committed" in said else [3, 4] if phase == "commit" else [3]
    assert epoch in allowed
    assert job.states() == {key: [epoch, key] for key in KEYS}
    assert len(job.stores) in ([2, 3] if phase == "rescale" else [2])
    job.commit()
    assert job.states() == {key: [epoch + 1, key] for key in KEYS}
    job.close(apply=True)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("call", CALLS)
def test_a_kill_at_a_system_call(
    call: str, phase: str, made: Path, tmp_path: Path, soak: bool
) -> None:
    """Before the call is done."""
    root = tmp_path / "store"
    shutil.copytree(made, root)
    total = count(call, phase, root)
    assert total > 0
    for number in points(total, soak):
        shutil.rmtree(root)
        shutil.copytree(made, root)
        ran = trace(f"{call}:signal=SIGKILL:when={number}", phase, root)
        assert ran.returncode != 0
        check(root, phase, ran.stdout)


@pytest.mark.parametrize(
    ("call", "error"), [("fdatasync", "EIO"), ("fsync", "EIO"), ("write", "ENOSPC")]
)
def test_an_error_at_a_system_call(
    call: str, error: str, made: Path, tmp_path: Path, soak: bool
) -> None:
    """The run ends with an error of ours, and the last epoch is intact."""
    root = tmp_path / "store"
    shutil.copytree(made, root)
    total = count(call, "commit", root)
    for number in points(total, soak):
        shutil.rmtree(root)
        shutil.copytree(made, root)
        ran = trace(f"{call}:error={error}:when={number}", "commit", root)
        if ran.returncode != 0:
            ours = "engine.errors." in ran.stderr or "sys.stdout.write" in ran.stderr
            assert ours, ran.stderr
        check(root, "commit", ran.stdout)
