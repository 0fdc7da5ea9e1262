"""What a traced child does: commit epochs, resume, or rescale, on a store whose content is plain.

At the end of epoch e the state of each key is ``[e, key]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from engine.keys import key_group, owner
from engine.recovery._changes import KeyedChanges
from engine.recovery._disk import RealDisk
from engine.recovery._evolution import evolve
from engine.recovery._ids import Epoch, WorkerIndex
from engine.recovery._rescale import RescalePlan, rescale
from engine.recovery._store_folder import StoreFolder
from engine.recovery._worker_store import WorkerSpot, WorkerStore
from engine.recovery.store import RocksTables
from tests.recovery.job import COUNT, JOB, WANTED

KEYS = [f"k{i}" for i in range(40)]


class Traced:
    """The job, opened for one generation; on two workers at first."""

    def __init__(self, root: Path) -> None:
        self.disk, self.tables, self.root = RealDisk(), RocksTables(), root
        self.folder = StoreFolder.open(self.disk, root, "token", create=True)
        self.folder.remove_leftovers()
        old = self.folder.manifest
        steps = evolve(old.steps if old else {}, old.next_step if old else 1, WANTED)
        self.folder.start_generation(JOB, steps, old.workers if old else 2, 0.0)
        self.stores = self._open()

    def _open(self) -> list[WorkerStore]:
        manifest = self.folder.manifest
        assert manifest is not None
        spots = [
            WorkerSpot(self.disk, self.tables, self.root, WorkerIndex(i))
            for i in range(manifest.workers)
        ]
        return [WorkerStore.open(spot, manifest) for spot in spots]

    def commit(self) -> None:
        epoch = Epoch(self.stores[0].committed + 1)
        for worker, store in enumerate(self.stores):
            keys = [key for key in KEYS if owner(key_group(key), len(self.stores)) == worker]
            store.append(epoch, [KeyedChanges(COUNT, keys, [[epoch, key] for key in keys])])
            store.prepare(epoch)
        self.folder.commit(epoch, {}, 0.0)
        for store in self.stores:
            store.commit(epoch)

    def rescale(self, workers: int) -> None:
        plan = RescalePlan(workers, 0.0, kept_rows_settled=True)
        rescale(self.disk, self.tables, self.folder, self.stores, plan)
        self.stores = self._open()

    def states(self) -> dict[str, list[object]]:
        """All states; each key is with the worker that owns it."""
        found = {}
        for worker, store in enumerate(self.stores):
            for key, row in store.scan_step(COUNT):
                assert owner(key_group(key), len(self.stores)) == worker
                found[key] = row.value
        return found

    def close(self, *, apply: bool = False) -> None:
        for store in self.stores:
            if apply:
                store.apply_all()
            store.close()
        self.folder.close()


def main(phase: str, root: Path) -> None:
    job = Traced(root)
    if phase == "commit":
        job.commit()
        # Nothing is said before the epoch is durable: who reads this may rely on it.
        sys.stdout.write("committed\n")
        sys.stdout.flush()
    elif phase == "rescale":
        job.rescale(3)
    else:
        for store in job.stores:
            store.apply_all()
    job.close(apply=phase == "resume")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
