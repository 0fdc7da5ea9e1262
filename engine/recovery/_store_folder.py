"""The whole store, as the process that coordinates the job sees it: lock, chain, generations.

Opening it locks it. `start_generation` and `commit` add links to the chain of manifests; workers
open their own parts (`_worker_store`) with the manifest that `start_generation` gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import (
    ForeignStoreError,
    InconsistentPartitionsError,
    InternalError,
    MissingPartitionsError,
    NoPartitionsError,
)
from engine.recovery._chain import ManifestChain
from engine.recovery._disk import Disk, Lock, remove_tree, writing
from engine.recovery._evolution import Evolution
from engine.recovery._ids import Epoch, Generation
from engine.recovery._layout import (
    StorePaths,
    create_store,
    read_store_id,
    remove_unfinished,
)
from engine.recovery._manifest import Manifest, Published, StepEntry
from engine.recovery._worker_files import CHECKPOINT, TEMPORARY

MANIFESTS_KEPT = 3


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """Which flow runs on the store."""

    flow_id: str
    fingerprint: str


class StoreFolder:
    """An open store. Made by `open`; used by one process at a time."""

    def __init__(
        self, disk: Disk, root: Path, store_id: str, chain: ManifestChain, lock: Lock
    ) -> None:
        self.root = root
        self.store_id = store_id
        self.manifest: Manifest | None = None
        """The newest; None before the first start."""
        self._disk = disk
        self._chain = chain
        self._lock = lock

    @staticmethod
    def open(disk: Disk, root: Path, token: str, *, create: bool = False) -> StoreFolder:
        """Lock a store and read its newest manifest.

        Args:
            disk: Where.
            root: The store's folder.
            token: Random, different for each process and store.
            create: Make a store if the folder is empty or isn't there.

        Raises:
            NoPartitionsError: The folder is no store.
            MissingPartitionsError: All manifests are gone.
            CorruptStoreError: FORMAT or the newest manifest is damaged.
            StoreFormatError: A newer engine wrote it.
            StoreInUseError: Another process has it open.
            StoreWriteError: The disk refused, for want of permission for example.
        """
        if create:
            create_store(disk, root, store_id=token)
        with writing(root, "open the recovery store"):
            store_id = read_store_id(disk, root)
            lock = disk.lock(StorePaths(root).lock)
        try:
            chain = ManifestChain(disk, StorePaths(root).manifests, token)
            folder = StoreFolder(disk, root, store_id, chain, lock)
            with writing(root, "read the manifests of the recovery store"):
                folder.refresh()
        except BaseException:
            lock.release()
            raise
        return folder

    def refresh(self) -> None:
        """Read the newest manifest again. Errors as `open`."""
        paths = StorePaths(self.root)
        if not self._disk.is_folder(paths.manifests):
            msg = f"{paths.manifests} is missing: without it nobody knows which epoch is durable"
            raise MissingPartitionsError(msg)
        manifest = self._chain.newest()
        if manifest is None and (shards := paths.shards_there(self._disk)):
            msg = (
                f"{paths.manifests} is empty, though {paths.shards(shards[-1])} is there: "
                "without manifests nobody knows which epoch is durable"
            )
            raise MissingPartitionsError(msg)
        if manifest is not None and manifest.store_id != self.store_id:
            msg = (
                f"{self._chain.path(manifest.seq)} is of store {manifest.store_id}, but "
                f"{paths.format} is of store {self.store_id}"
            )
            raise InconsistentPartitionsError(msg)
        self.manifest = manifest

    def check_flow(self, job: JobIdentity) -> None:
        """See that the store is of this flow.

        Raises:
            ForeignStoreError: It is of another.
        """
        stored = self.manifest
        if stored is not None and stored.flow_id != job.flow_id:
            msg = (
                f"{self.root} is the store of flow {stored.flow_id!r}, not of {job.flow_id!r}; "
                "give each flow a folder of its own"
            )
            raise ForeignStoreError(msg)

    def start_generation(
        self, job: JobIdentity, evolution: Evolution, workers: int, time_s: float
    ) -> Manifest:
        """Claim the store for a new generation: older ones can't commit any more.

        With workers as many as before; `engine.recovery._rescale` changes the number.

        Raises:
            ForeignStoreError: It is of another flow.
            FencedError: Another process was faster.
            InconsistentPartitionsError: It has another number of workers.
        """
        self.check_flow(job)
        before = self.manifest
        if before is None:
            manifest = Manifest(
                seq=1,
                kind="generation",
                generation=Generation(1),
                epoch=Epoch(0),
                store_id=self.store_id,
                flow_id=job.flow_id,
                fingerprint=job.fingerprint,
                workers=workers,
                shards=1,
                shards_epoch=Epoch(0),
                steps=evolution.steps,
                next_step=evolution.next_step,
                time_s=time_s,
            )
        else:
            if before.workers != workers:
                msg = f"{self.root} holds {before.workers} workers' state, not {workers}: rescale"
                raise InconsistentPartitionsError(msg)
            manifest = before.after_start(
                time_s,
                fingerprint=job.fingerprint,
                steps=evolution.steps,
                next_step=evolution.next_step,
                dropped=(*before.dropped, *evolution.dropped),
            )
        self.add(manifest)
        return manifest

    def change(self, time_s: float, **changes: Any) -> Manifest:
        """Claim the store for a new generation of the flow that it is of, to work on it.

        Args:
            time_s: Now, in seconds since 1970 UTC.
            changes: Fields of the manifest that differ.

        Raises:
            NoPartitionsError: No flow has ever run on it.
            FencedError: Another process was faster.
        """
        manifest = self.started().after_start(time_s, **changes)
        self.add(manifest)
        return manifest

    def started(self) -> Manifest:
        """The newest manifest.

        Raises:
            NoPartitionsError: There is none, because no flow has ever run on the store.
        """
        if self.manifest is None:
            msg = f"no flow has run on the store in {self.root} yet, so there is nothing in it"
            raise NoPartitionsError(msg)
        return self.manifest

    def check_in_force(self) -> None:
        """See that the newest manifest is the one that this process knows.

        Raises:
            FencedError: A newer generation has taken over.
        """
        self._chain.check_in_force(self.started())

    def add(self, manifest: Manifest) -> None:
        """Add a link to the chain. Errors as `ManifestChain.link`."""
        self._chain.link(manifest)
        self.manifest = manifest
        self._chain.collect(before=manifest.seq - MANIFESTS_KEPT + 1)

    def commit(
        self,
        epoch: Epoch,
        published: Published,
        time_s: float,
        steps: Mapping[str, StepEntry] | None = None,
    ) -> Manifest:
        """Make an epoch durable that all workers have prepared.

        Args:
            epoch: The one after the last.
            published: Per sink step and shard, the last epoch that is out at the target.
            time_s: Now, in seconds since 1970 UTC.
            steps: Those that have rows from this epoch on; the same as before if left out.

        Raises:
            FencedError: A newer generation has taken over.
            StoreWriteError: The disk refused; whether the epoch is durable shows at the next start.
        """
        before = self.manifest
        if before is None or epoch != before.epoch + 1:
            msg = f"epoch {epoch} is committed after {before and before.epoch}"
            raise InternalError(msg)
        manifest = before.after_epoch(epoch, published, time_s, steps)
        self.add(manifest)
        return manifest

    def remove_leftovers(self) -> None:
        """Delete what dead processes left unfinished: temporary files, and shards out of use.

        Shards with the number of a newer generation are left alone: this process may be the one
        that is taken for dead.
        """
        manifest = self.manifest
        paths = StorePaths(self.root)
        with writing(self.root, "delete what was left unfinished"):
            self._chain.remove_leftovers()
            remove_unfinished(self._disk, paths)
            remove_tree(self._disk, paths.restoring)
            for number in paths.shards_there(self._disk):
                if manifest is not None and manifest.generation >= number != manifest.shards:
                    remove_tree(self._disk, paths.shards(number))
            if manifest is not None and self._disk.exists(paths.shards(manifest.shards)):
                self._remove_checkpoints(paths.shards(manifest.shards))

    def _remove_checkpoints(self, shards: Path) -> None:
        """Delete links that were made for a savepoint; they would keep old rows on the disk."""
        for name in self._disk.names(shards):
            for leftover in (CHECKPOINT, CHECKPOINT + TEMPORARY):
                remove_tree(self._disk, shards / name / leftover)

    def close(self) -> None:
        """Unlock the store."""
        self._lock.release()
