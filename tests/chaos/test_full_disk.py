"""A real file system is full: the run says so and ends, and once there is room it goes on."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.drill import EAGER, Drill, Load, assert_failed, assert_same, errors_of

UNSHARE = shutil.which("unshare")
LOAD = Load("10ms", 2000, 0.5)
ROOM_KB, ROOM_KB_SOAK = (200, 500), (250, 300, 400)
"""Less than the drill needs; with most of these it gets somewhere."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """As many sizes as there is time for."""
    soak = metafunc.config.getoption("--soak", default=False)
    metafunc.parametrize("room_kb", ROOM_KB + ROOM_KB_SOAK if soak else ROOM_KB)


def can_mount() -> bool:
    """Whether a file system can be mounted here, seen by nobody else."""
    if UNSHARE is None:
        return False
    mounting = [UNSHARE, "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(mounting, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="no small file system can be mounted here")
def test_a_full_disk(tmp_path: Path, room_kb: int) -> None:
    """It ends the run with exit code 1; with more room the same command does the rest."""
    whole = Drill(tmp_path / "whole", LOAD).prepare().finish()
    kept = Drill(tmp_path / "kept", LOAD).prepare()
    drill = Drill(tmp_path / "small" / "drill", LOAD)
    drill.folder.parent.mkdir()
    # The first has much to do in the table, which needs room as well.
    first, second = shlex.join(drill.arguments(EAGER)), shlex.join(drill.arguments())
    verify = shlex.join([sys.executable, "-m", "engine.recovery", "verify", str(drill.store)])
    # The file system is there for this shell alone and gone with it.
    small, inside, outside = map(
        shlex.quote, map(str, (drill.folder.parent, drill.folder, kept.folder))
    )
    script = f"""
        mount -t tmpfs -o size={room_kb}k tmpfs {small}
        cp -r {outside} {inside}
        {first}; echo "first run: $?"
        mount -o remount,size=64m {small}
        {verify}
        {second}; echo "second run: $?"
        rm -r {outside}; cp -r {inside} {outside}
    """
    done = subprocess.run(
        [str(UNSHARE), "--mount", "sh", "-c", script],
        env=drill.environment(),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout.splitlines()
    sys.stdout.write(done.stdout + done.stderr)
    assert said[0] == "first run: 1"
    assert re.fullmatch(r"sound: epoch \d+, [\d,]+ keys", said[1])
    assert said[2:] == ["second run: 0"]
    # SQLite says it in its own words. The first error counts, not what it leads to.
    full = "disk is full" if "disk is full" in done.stderr else "No space left on device"
    assert_failed(1, done.stderr, full)
    assert "could not close" not in errors_of(done.stderr).splitlines()[0]
    assert_same(kept.output(), whole)
