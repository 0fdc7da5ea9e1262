"""Scenes: what a run can be made to start from, again and again, to fail at each of its points."""

from __future__ import annotations

import random
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from engine.recovery._disk import RealDisk
from engine.recovery._ids import WorkerIndex
from engine.recovery._rescale import RescalePlan, rescale
from engine.recovery._store_folder import StoreFolder
from engine.recovery._worker_store import WorkerSpot, WorkerStore
from engine.recovery.store import RocksTables
from tests.chaos.drill import EAGER, Drill, Load, Output, assert_same, ended

LOAD = Load("0", 100)
SLOW = Load("0", 100, 1.0)
"""So slow that it can be stopped in its middle."""
Point = TypeVar("Point")


@dataclass(frozen=True)
class Scene:
    """A drill in some state, and a copy of it to go back to."""

    drill: Drill
    saved: Path
    whole: Output
    """What its output must be in the end."""

    @staticmethod
    def of(drill: Drill, whole: Output) -> Scene:
        """Keep a drill as it is now."""
        saved = drill.folder.with_name("saved")
        shutil.copytree(drill.folder, saved)
        return Scene(drill, saved, whole)

    def saved_anew(self) -> Scene:
        """Keep the drill as it is now, in place of how it was."""
        shutil.rmtree(self.saved)
        self.journal.with_name("undisturbed").unlink(missing_ok=True)
        return Scene.of(self.drill, self.whole)

    def restore(self) -> None:
        """Go back. To the same folder, because the store knows the files by their names."""
        shutil.rmtree(self.drill.folder)
        shutil.copytree(self.saved, self.drill.folder)

    def check(self) -> None:
        """The same command, and now nothing happens to it, ends with the right output."""
        assert_same(self.drill.finish(), self.whole)

    @property
    def older(self) -> Path:
        """An older copy of the store, if it is the scene `worn`."""
        return self.drill.folder.with_name("older")

    @property
    def other(self) -> Path:
        """The store of another drill of the same flow; likewise."""
        return self.drill.folder.with_name("other")

    @property
    def journal(self) -> Path:
        """Where a faulty run notes its calls."""
        return self.drill.folder.with_name("journal")

    def faulty(self, fault: str, store: str = "eager") -> list[str]:
        """The command of a run on a disk that fails."""
        return [sys.executable, "-m", "tests.chaos.faulty", store, fault, str(self.journal)]

    def die_after(self, commits: int, store: str = "eager") -> None:
        """Run it, and kill it when so many manifests are durable; nothing of the last is out."""
        done = self.drill.run(self.faulty(f"commit:{commits}", store))
        assert done.returncode == -signal.SIGKILL, done.stderr

    def calls(self) -> list[str]:
        """The calls of the last faulty run."""
        return self.journal.read_text().splitlines()

    def undisturbed(self) -> list[str]:
        """The calls of a run on a faulty disk that does not fail."""
        kept = self.journal.with_name("undisturbed")
        if not kept.exists():
            self.restore()
            done = self.drill.run(self.faulty("none"))
            assert done.returncode == 0, done.stderr
            self.journal.rename(kept)
        return kept.read_text().splitlines()

    def commits(self) -> list[int]:
        """The numbers, from 1, of those calls that gave a manifest its name."""
        manifest = f"link {self.drill.store}/manifests/"
        return [n for n, call in enumerate(self.undisturbed(), 1) if call.startswith(manifest)]


def fresh(folder: Path) -> Scene:
    """Nothing has run yet."""
    whole = Drill(folder / "whole", LOAD).prepare().finish()
    return Scene.of(Drill(folder / "drill", LOAD).prepare(), whole)


def killed(folder: Path) -> Scene:
    """A run was killed in its middle, just after an epoch was durable and before it was out."""
    scene = fresh(folder)
    scene.die_after(5)
    output = scene.drill.output()
    assert len(output["rows"]) < output["out.txt"].count(b"\n") < LOAD.lines
    return scene.saved_anew()


def dealt(folder: Path) -> Scene:
    """A run was drained in its middle, and its state was dealt to three workers."""
    scene = killed(folder)
    _drain(scene.drill, epochs=1)
    assert scene.drill.grown() < len(scene.whole["out.txt"])
    _deal(scene.drill.store, 3)
    return scene.saved_anew()


def worn(folder: Path) -> Scene:
    """Its store has been through much: tables with files, two files of the log, older copies.

    Beside the drill are ``older``, a copy of the store from before the last two kills, and
    ``other``, the store of another drill of the same flow.
    """
    scene = fresh(folder)
    shutil.copytree(folder / "whole" / "store", folder / "other")
    for _ in range(2):
        _drain(scene.drill, epochs=3)
    shutil.copytree(scene.drill.store, folder / "older")
    for _ in range(2):
        # What these two write is in their logs alone.
        scene.die_after(3, store="usual")
    assert len(list(scene.drill.store.glob("*/*/log/*.log"))) >= 2
    assert list(scene.drill.store.glob("*/*/table/*.sst"))
    return scene.saved_anew()


def _drain(drill: Drill, epochs: int) -> None:
    """Start a run, and drain it after so many commits."""
    before = set(drill.manifests())
    process = replace(drill, load=SLOW).start(EAGER)
    # Before it has claimed the store, the signal would not drain it but end it.
    while process.poll() is None and len(set(drill.manifests()) - before) < epochs:
        pass
    process.send_signal(signal.SIGTERM)
    done = ended(process)
    assert done.returncode == 0, done.stderr


def _deal(root: Path, workers: int) -> None:
    """Deal the state of one worker to several."""
    disk, tables = RealDisk(), RocksTables()
    folder = StoreFolder.open(disk, root, "dealer")
    store = WorkerStore.open(WorkerSpot(disk, tables, root, WorkerIndex(0)), folder.change(0.0))
    rescale(disk, tables, folder, [store], RescalePlan(workers, 0.0, kept_rows_settled=True))
    folder.close()


def some(points: Sequence[Point], seed: str, count: int, *, soak: bool) -> list[Point]:
    """Which points to try: all if there is time."""
    if soak or len(points) <= count:
        return list(points)
    return random.Random(seed).sample(points, count)
