"""A process that lives on a store until it is killed, and journals what its state must be."""

from __future__ import annotations

import os
import pickle
import random
import sys
from pathlib import Path

from engine.recovery._disk import RealDisk
from engine.recovery.store import RocksTables
from tests.recovery.job import SINK, Job, Model, check, run_epochs


def live(folder: Path, journal: Path, seed: int) -> None:
    """Resume, check, say "ready", and go on for ever."""
    rng = random.Random(seed)
    history: dict[int, Model] = {0: Model()}
    if journal.exists():
        history = pickle.loads(journal.read_bytes())
    job = Job(RealDisk(), RocksTables(), folder, f"{os.getpid()}-{seed}")
    epoch = job.manifest.epoch
    check(job.store, history[epoch])
    assert not epoch or job.store.kept_rows(SINK) == history[epoch].kept
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        run_epochs(job, rng, _Journal(history, journal), 1)


class _Journal(dict[int, Model]):
    """A history that is on the disk before the epoch can be prepared."""

    def __init__(self, history: dict[int, Model], path: Path) -> None:
        super().__init__(history)
        self._history = history
        self._path = path

    def __setitem__(self, epoch: int, model: Model) -> None:
        super().__setitem__(epoch, model)
        self._history[epoch] = model
        # The last few are enough: no store goes back further.
        kept = {e: m for e, m in self._history.items() if e >= epoch - 3}
        temporary = self._path.with_suffix(".tmp")
        temporary.write_bytes(pickle.dumps(kept))
        temporary.replace(self._path)
