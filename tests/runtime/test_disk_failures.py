"""A disk that is full or broken ends a run with a clear error; the same command goes on later."""

from __future__ import annotations

import errno
from copy import deepcopy

import pytest

from engine.errors import StoreWriteError
from engine.recovery._fakes import MemoryTables
from engine.recovery._verify import verify
from tests.runtime.stored import ROOT, Outside, check_output, crashed, open_job, opened, run

_OF_TARGETS = ("build", "begin", "publish", "published", "cut")


def operations(workers: int) -> list[int]:
    """Which of a run's operations on the disk are the store's own."""
    outside = Outside()
    run(outside, workers)
    trace = outside.disk.trace
    return [i for i, what in enumerate(trace, 1) if what.split()[0] not in _OF_TARGETS]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("power", [False, True])
def test_a_run_ends_at_any_operation_that_the_disk_refuses(workers: int, number: int, power: bool):
    """The error says which file; the last epoch is intact, and all of the output comes once."""
    failing = operations(workers)
    assert len(failing) > 60
    for at in failing[:: 5 if workers == 1 else 11]:
        outside = Outside()
        outside.disk.failures = {at: number}
        what = _refused(outside, workers)
        assert ("make room" in what) == (number == errno.ENOSPC), at
        durable = _durable(outside)
        outside.disk = outside.disk.after_crash(at, power=power)
        job = open_job(outside, workers)
        assert job.epoch >= durable
        run(outside, workers, job)
        check_output(outside)
        assert verify(outside.disk, MemoryTables(outside.disk), ROOT).faults == []


def _refused(outside: Outside, workers: int) -> str:
    with pytest.raises(StoreWriteError) as caught:
        run(outside, workers)
    assert caught.value.path.startswith(str(ROOT))
    assert str(caught.value).startswith(caught.value.path)
    assert isinstance(caught.value.__cause__, OSError)
    assert "the last durable epoch is intact" in str(caught.value)
    return str(caught.value)


def _durable(outside: Outside) -> int:
    """The last epoch that the disk can't lose any more."""
    folder = ROOT / "manifests"
    if not outside.disk.exists(folder):
        return 0
    texts = outside.disk.synced(folder).items()
    links = [data for name, data in sorted(texts) if name.endswith(".json")]
    return int(links[-1].split(b'"epoch": ')[1].split(b",")[0]) if links else 0


def test_a_start_that_the_disk_refuses_leaves_the_store_in_force():
    """At any operation of a re-shard; with the old number of workers or the new one it goes on."""
    start = crashed(2)
    good = deepcopy(start)
    with opened(good, 3):
        trace = good.disk.trace
    failing = [i for i, what in enumerate(trace, 1) if what.split()[0] not in _OF_TARGETS]
    assert len(failing) > 60
    for at in failing[::3]:
        outside = deepcopy(start)
        outside.disk.failures = {at: errno.ENOSPC}
        with pytest.raises(StoreWriteError) as caught:
            open_job(outside, 3)
        assert caught.value.path.startswith(str(ROOT))
        # Nothing is left locked: another try in the same process, once there is room.
        outside.disk.failures = {}
        run(outside, 2 + at % 2)
        check_output(outside)
