"""A real run dies, or is refused, at each of the file calls that it makes in Python.

Then the same command is given again, and its output is that of a run to which nothing happened.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.chaos.drill import assert_failed
from tests.chaos.scene import Scene, some


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run: from one commit to another, by their numbers in it."""

    scene: str
    first: int | None
    last: int | None

    def points(self, scene: Scene) -> list[int]:
        """The numbers of its calls, after a run to which nothing happened."""
        commits = scene.commits()
        first = 1 if self.first is None else commits[self.first]
        last = len(scene.undisturbed()) if self.last is None else commits[self.last]
        return list(range(first, last + 1))


PHASES = {
    "making a store": Phase("fresh", None, 1),
    "recovery": Phase("killed", None, 1),
    "commit": Phase("killed", 1, 3),
    "end": Phase("killed", -1, None),
    "rescale": Phase("dealt", None, 2),
}
KILLS, FAILURES = 3, 1
"""How many points are tried if there isn't time for all."""
ERRORS = [
    ("write", "ENOSPC"),
    ("open", "ENOSPC"),
    ("link", "ENOSPC"),
    ("fsync", "EIO"),
    ("fdatasync", "EIO"),
    ("write", "EIO"),
]


@pytest.mark.parametrize("name", PHASES)
def test_a_kill_at_a_file_call(name: str, scene_of: Callable[[str], Scene], soak: bool) -> None:
    """At any of them in a phase of a run; a write gets half done."""
    phase = PHASES[name]
    scene = scene_of(phase.scene)
    points = phase.points(scene)
    assert len(points) >= 5
    killed_at = 0
    for number in some(points, name, KILLS, soak=soak):
        scene.restore()
        done = scene.drill.run(scene.faulty(f"kill:{number}"))
        sys.stdout.write(f"killed at call {number}: {scene.calls()[-1]}\n")
        # How many batches the timers give depends on their moments, so a run may have fewer calls.
        assert done.returncode == -signal.SIGKILL or len(scene.calls()) < number, done.stderr
        killed_at += done.returncode == -signal.SIGKILL
        scene.check()
    assert killed_at > 0


@pytest.mark.parametrize(("call", "error"), ERRORS)
def test_an_error_of_a_file_call(
    call: str, error: str, scene_of: Callable[[str], Scene], soak: bool
) -> None:
    """The run ends with one error that names the file; the last epoch is intact."""
    scene = scene_of("killed")
    calls = [n for n, line in enumerate(scene.undisturbed(), 1) if line.startswith(f"{call} ")]
    failed = 0
    for number in some(calls, f"{call} {error}", FAILURES, soak=soak):
        scene.restore()
        done = scene.drill.run(scene.faulty(f"{error}:{number}"))
        made = scene.calls()
        if len(made) >= number and made[number - 1].startswith(f"{call} "):
            sys.stdout.write(f"{error} at call {number}, {made[number - 1]}:\n{done.stderr}\n")
            why = os.strerror(getattr(errno, error))
            assert_failed(done.returncode, done.stderr, why, str(scene.drill.folder))
            failed += 1
        scene.check()
    assert failed > 0
