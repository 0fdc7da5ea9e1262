"""Older epochs are kept for as long as the interval says, and each of them can be restored."""

from __future__ import annotations

import random
import re
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from engine.errors import CorruptStoreError, NoPartitionsError, StoreError
from engine.recovery import _changes, _log
from engine.recovery._admin import StorePlace, drop_step, save, summary
from engine.recovery._backups import BackupOptions, read_backups
from engine.recovery._changes import KeptRows, KeyedChanges
from engine.recovery._disk import Disk, RealDisk, remove_tree
from engine.recovery._fakes import FakeDisk, MemoryTable, MemoryTables, SimulatedCrash
from engine.recovery._ids import Epoch, WorkerIndex
from engine.recovery._log_reader import read_epochs
from engine.recovery._older_epochs import epoch_of_store
from engine.recovery._restore import RestorePlan, restore
from engine.recovery._table import Tables
from engine.recovery._verify import verify
from engine.recovery._worker_files import identity_of
from engine.recovery._worker_store import StoreOptions
from engine.recovery.store import RocksTables
from tests.recovery.job import COUNT, SINK, SMALL, Job, Model, check, random_changes

INTERVAL_S = 40.0


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_log, "SEGMENT_BYTES_MAX", 2000)
    monkeypatch.setattr(_changes, "CHUNK_ROWS", 4)


class Life:
    """A job that commits an epoch each ten seconds, and what was in it at each epoch."""

    def __init__(
        self, disk: Disk, tables: Tables, base: Path, interval_s: float = INTERVAL_S
    ) -> None:
        self.disk, self.tables, self.base = disk, tables, base
        self.root = base / "store"
        self.now_s = 1000.0
        self.history = {0: Model()}
        self.rng = random.Random(3)
        self.interval_s = interval_s
        self.job = self.open()

    def open(self, options: StoreOptions = SMALL) -> Job:
        backup = BackupOptions(timedelta(seconds=self.interval_s), lambda: self.now_s)
        options = replace(options, backup=backup)
        self.job = Job(self.disk, self.tables, self.root, f"t{self.now_s}", options)
        return self.job

    def epoch(self, *, rows: list[bytes] | None = None) -> None:
        job, rng = self.job, self.rng
        model = deepcopy(self.history[job.store.committed])
        epoch = Epoch(job.store.committed + 1)
        job.store.append(epoch, random_changes(rng, model))
        model.kept = {}
        if rows:
            job.store.append(epoch, [KeptRows(SINK, "s", rows)])
            model.kept["s"] = rows
        self.history[epoch] = model
        self.now_s += 10.0
        job.store.prepare(epoch)
        published = {SINK: {"s": epoch - 1}}
        job.folder.commit(epoch, published, self.now_s)
        job.store.commit(epoch)
        for _ in range(rng.randint(0, 24)):
            job.store.apply_slice(eager=rng.random() < 0.5)

    def run(self, epochs: int) -> None:
        for _ in range(epochs):
            self.epoch()

    def close(self) -> None:
        self.job.close(apply=False)

    def kept(self) -> list[int]:
        place = StorePlace(self.disk, self.tables, self.root, "look", self.now_s)
        return [kept.epoch for kept in summary(place).older]

    def restore(self, epoch: int, to: str, choice: str = "continue") -> Path:
        plan = RestorePlan(to, self.now_s, choice)
        opened = epoch_of_store(self.disk, self.tables, self.root, "look", Epoch(epoch))
        with opened as copy:
            restore(self.disk, self.tables, self.base / to, copy, plan)
        return self.base / to

    def check_restored(self, epoch: int, choice: str = "new-target") -> None:
        root = self.restore(epoch, f"copy-{epoch}-{self.now_s}", choice)
        model = deepcopy(self.history[epoch])
        if choice == "new-target":
            model.parts[SINK] = {}
        self.check(root, model)

    def check(self, root: Path, model: Model) -> None:
        assert verify(self.disk, self.tables, root).faults == []
        job = Job(self.disk, self.tables, root, "restored")
        check(job.store, model)
        job.close(apply=False)


def in_memory(interval_s: float = INTERVAL_S) -> Life:
    disk = FakeDisk()
    return Life(disk, MemoryTables(disk), Path("/"), interval_s)


@pytest.mark.parametrize("kind", ["memory", "rocks"])
def test_every_epoch_of_the_interval_can_be_restored(kind: str, tmp_path: Path) -> None:
    """Exactly as it was, also across restarts; and the store itself goes on unharmed."""
    life = in_memory() if kind == "memory" else Life(RealDisk(), RocksTables(), tmp_path)
    for epochs in (5, 1, 4, 3):
        life.run(epochs)
        life.close()
        life.open()
    life.close()
    kept = life.kept()
    assert kept[0] <= 13 - 4
    for epoch in range(kept[0], 14):
        choice = "continue" if epoch > 11 else "new-target"
        life.check_restored(epoch, choice)
    life.check(life.root, life.history[13])


def test_what_is_too_old_is_dropped() -> None:
    """Copies, and the log before the oldest; an epoch that is gone is refused by name."""
    life = in_memory()
    sizes: list[tuple[int, int]] = []
    for _ in range(40):
        life.epoch()
        folder = life.job.store.folder
        copies = life.disk.names(folder / "backups") if life.job.store.committed > 3 else []
        sizes.append((len(copies), len(life.disk.names(folder / "log"))))
    life.close()
    kept = life.kept()
    # A copy each ten seconds of forty, and at most one more from before.
    assert max(copies for copies, _ in sizes) <= 7
    assert max(files for _, files in sizes[20:]) <= max(files for _, files in sizes[:20]) + 3
    assert 40 - 12 <= kept[0] <= 40 - 4
    with pytest.raises(NoPartitionsError, match="epoch 5 of /store can't be restored; it has ep"):
        life.restore(5, "none")
    with pytest.raises(NoPartitionsError, match=f"epochs {kept[0]} to 40"):
        life.restore(41, "none")
    assert not life.disk.exists(Path("/none"))


def test_no_epoch_of_the_interval_is_dropped() -> None:
    """There is always a copy from before it, and only one."""
    life = in_memory()
    for _ in range(20):
        life.epoch()
        for _ in range(3):
            while life.job.store.apply_slice(eager=True):
                pass
    life.close()
    # Forty seconds are four epochs.
    assert life.kept() == [16, 17, 18, 19]


def test_without_an_interval_nothing_is_kept() -> None:
    """An interval of zero drops what is there; a command leaves it alone."""
    life = in_memory()
    life.run(8)
    life.close()
    before = life.kept()
    assert len(before) > 1
    save(StorePlace(life.disk, life.tables, life.root, "s", life.now_s), Path("/saved"), "a")
    assert life.kept() == before
    life.check_restored(before[0])
    life.interval_s = 0.0
    life.open()
    life.run(3)
    life.close()
    assert life.kept() == []
    assert not life.disk.exists(life.job.store.folder / "backups")
    assert len(life.disk.names(life.job.store.folder / "log")) <= 3
    life.check_restored(11)


def three_runs(life: Life) -> None:
    for epochs in (6, 2, 14):
        life.run(epochs)
        life.close()
        life.open()


def crash_points(*, soak: bool) -> list[tuple[int, int]]:
    """All operations on copies of the table, and some of the others, each with a seed.

    What is deleted has several seeds, because a crash may leave any part of it.
    """
    life = in_memory()
    start = life.disk.ops
    three_runs(life)
    trace = life.disk.trace[start:]
    on_copies = re.compile(r"backups|BACKUP|DATA| 0{9}\d+(\.tmp)?$")
    step = 1 if soak else 50
    points = [n for n, op in enumerate(trace, 1) if on_copies.search(op) or n % step == 0]
    assert {"mkdir", "rename", "unlink", "rmdir"} < {trace[n - 1].split()[0] for n in points}
    deleting = [n for n in points if re.match(r"unlink BACKUP|unlink DATA|rmdir", trace[n - 1])]
    return [(n, n) for n in points] + [(n, seed) for n in deleting for seed in range(4)]


def test_epochs_can_be_restored_after_a_crash_anywhere(soak: bool) -> None:
    """While copies are made and dropped, and at starts: all that `ls` names is there."""
    epochs = set[int]()
    for crash_at, seed in crash_points(soak=soak):
        life = in_memory()
        life.disk.crash_at = life.disk.ops + crash_at
        with pytest.raises(SimulatedCrash):
            three_runs(life)
        life.disk = life.disk.after_crash(seed)
        life.tables = MemoryTables(life.disk)
        life.open()
        committed = life.job.store.committed
        check(life.job.store, life.history[committed])
        copies = life.job.store.folder / "backups"
        assert not life.disk.exists(copies) or not any(
            name.endswith(".tmp") for name in life.disk.names(copies)
        )
        life.close()
        kept = [*life.kept(), *([committed] if committed else [])]
        for epoch in {*kept[:1], *kept[-2:]}:
            life.check_restored(epoch)
            epochs.add(epoch)
        life.open()
        life.run(2)
        life.close()
        life.check_restored(max(committed + 1, (life.kept() or [committed + 2])[0]))
    assert len(epochs) > 8


def test_only_the_last_epoch_has_rows_to_publish() -> None:
    """Those of all earlier ones are out."""
    life = in_memory()
    for number in range(6):
        life.epoch(rows=[b"row %d" % number])
    life.close()
    for epoch, rows in ((6, {"s": [b"row 5"]}), (5, {})):
        root = life.restore(epoch, f"copy-{epoch}")
        job = Job(life.disk, life.tables, root, "x")
        assert job.store.kept_rows(SINK) == rows
        assert job.manifest.published == {SINK: {"s": epoch - 1}}
        assert job.manifest.job_id == life.job.manifest.store_id
    with pytest.raises(StoreError, match="can't go on from epoch 4: its target has later ones"):
        life.restore(4, "copy-4")
    life.restore(4, "copy-4", "new-target")


def test_a_log_without_an_epoch_is_no_log_of_it() -> None:
    """As that of a restored store, which begins with a later one."""
    life = in_memory()
    life.run(4)
    life.close()
    root = life.restore(4, "copy")
    job = Job(life.disk, life.tables, root, "x")
    job.store.prepare(Epoch(5))
    job.folder.commit(Epoch(5), {}, 0.0)
    log, identity = job.store.folder / "log", identity_of(job.manifest, WorkerIndex(0)).of_log
    assert len(list(read_epochs(life.disk, log, identity, Epoch(4), Epoch(5)))) == 1
    with pytest.raises(CorruptStoreError, match=r"\.log: it lacks epoch 3"):
        list(read_epochs(life.disk, log, identity, Epoch(2), Epoch(5)))
    with pytest.raises(CorruptStoreError, match="ends with epoch 5, before epoch 6"):
        list(read_epochs(life.disk, log, identity, Epoch(4), Epoch(6)))


def test_the_versions_of_then_are_restored() -> None:
    """So that the flow of then may run on it, and one that is older may not."""
    life = in_memory()
    life.run(4)
    for version in (1, 2, 3):
        job, epoch = life.job, Epoch(life.job.store.committed + 1)
        model = deepcopy(life.history[epoch - 1])
        model.states[COUNT]["a"] = (version, None)
        model.kept = {}
        life.history[epoch] = model
        job.store.append(epoch, [KeyedChanges(COUNT, ["a"], [version], version=version)])
        job.store.prepare(epoch)
        job.folder.commit(epoch, {}, life.now_s)
        job.store.commit(epoch)
    life.run(3)
    life.close()
    for epoch, version in ((4, 1), (5, 1), (6, 2), (7, 3), (8, 3)):
        root = life.restore(epoch, f"copy-{epoch}", "new-target")
        job = Job(life.disk, life.tables, root, "x")
        assert job.manifest.steps[COUNT].state_version == version, epoch
        job.close(apply=False)


def test_a_step_that_was_dropped_later_is_there() -> None:
    """Going back is the way out of a mistake."""
    life = in_memory(interval_s=1000.0)
    life.run(6)
    life.close()
    drop_step(StorePlace(life.disk, life.tables, life.root, "drop", life.now_s), COUNT)
    before = life.history[6]
    life.history[6] = deepcopy(before)
    life.history[6].states[COUNT] = {}
    life.open()
    life.run(3)
    life.close()
    assert life.kept()[-1] < 6
    life.check(life.root, life.history[9])
    life.check_restored(5)
    life.check_restored(8)
    life.history[6] = before
    life.check_restored(6)


def test_damage_to_what_is_kept_is_named() -> None:
    """Before anything is made; `verify` finds it too."""
    life = in_memory()
    life.run(8)
    # So that the log is there for the sake of older epochs alone.
    life.job.store.apply_all()
    life.close()
    folder, disk = life.job.store.folder, life.disk
    oldest = life.kept()[0]
    description = folder / "backups" / f"{oldest:012d}" / "BACKUP"
    text = disk.read(description)
    disk.put_durable(description, text[:-9] + b"x" + text[-8:])
    with pytest.raises(CorruptStoreError, match="the description of an older epoch is damaged"):
        life.kept()
    assert "delete the folder that it is in" in str(verify(disk, life.tables, life.root).faults)
    disk.put_durable(description, text)
    log = folder / "log" / disk.names(folder / "log")[0]
    data = disk.read(log)
    disk.put_durable(log, data[:200] + b"x" + data[201:])
    with pytest.raises(CorruptStoreError, match=r"\.log: at offset"):
        life.restore(oldest + 1, "none", "new-target")
    disk.unlink(log)
    with pytest.raises(CorruptStoreError, match=r"\.log: this file of the recovery log is missing"):
        life.restore(oldest + 1, "none", "new-target")
    assert not disk.exists(Path("/none"))
    for name in disk.names(folder / "backups"):
        remove_tree(disk, folder / "backups" / name)
    assert life.kept() == []
    assert verify(disk, life.tables, life.root).faults == []


def test_a_worker_does_not_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is flushed in the background; until that is done there is no copy."""
    life = in_memory()
    life.run(2)
    done, flush_done = [False, False, True], MemoryTable.flush_done
    monkeypatch.setattr(
        MemoryTable, "flush_done", lambda table: done.pop(0) and flush_done(table) if done else True
    )
    folder = life.job.store.folder / "backups"
    before = life.disk.names(folder) if life.disk.exists(folder) else []
    life.now_s += 100
    store = life.job.store
    while store.apply_slice():
        pass
    epoch = store.committed
    for version in (2, 3):
        # What is committed meanwhile is no part of the copy.
        store.append(Epoch(epoch + version - 1), [KeyedChanges(COUNT, ["v"], [1], version=version)])
        store.prepare(Epoch(epoch + version - 1))
        store.commit(Epoch(epoch + version - 1))
        assert not store.apply_slice()
        assert (life.disk.names(folder) if life.disk.exists(folder) else []) == before
    assert store.apply_slice()
    copies = read_backups(life.disk, store.folder)
    assert len(copies) == len(before) + 1
    assert copies[-1].manifest.epoch <= epoch
    assert copies[-1].manifest.steps[COUNT].state_version == 1
