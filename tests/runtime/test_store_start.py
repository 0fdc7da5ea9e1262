"""What a run does with its store before the first record: another number of workers, old shards."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from engine.dataflow import Dataflow
from engine.errors import EngineError, EngineRuntimeError, InconsistentPartitionsError
from engine.recovery._fakes import MemoryTables, SimulatedCrash
from engine.recovery._verify import verify
from tests.runtime.scripted import FakeTime
from tests.runtime.stored import (
    ROOT,
    Outside,
    TablePart,
    check_output,
    contents,
    crashed,
    flow_of,
    open_job,
    opened,
    run,
)


@pytest.mark.parametrize("path", [[1, 3], [3, 1], [2, 5], [4, 2, 3], [1, 16, 1]])
def test_a_store_of_any_number_of_workers_goes_on_with_any_other(path: list[int]):
    """Through crashes in the middle of publishing; the output is that of one good run."""
    outside = crashed(path[0])
    for number, workers in enumerate(path[1:], 1):
        if workers != path[-1]:
            outside.crash_in_epoch, outside.published = 4 + 2 * number, 0
            with pytest.raises(SimulatedCrash):
                run(outside, workers)
            outside.disk = outside.disk.after_crash(number)
    outside.crash_in_epoch = None
    run(outside, path[-1])
    check_output(outside)
    assert verify(outside.disk, MemoryTables(outside.disk), ROOT).faults == []
    assert sum(name.startswith("shards") for name in outside.disk.names(ROOT)) == 1


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 2), (2, 2)])
def test_a_crash_at_any_point_of_a_start_changes_nothing(before: int, after: int, seed: int):
    """Not in state, timers, positions or at the targets of sinks, whose calls count as points."""
    start = crashed(before, pending=1)
    good, ops = _started(deepcopy(start), after)
    for crash_at in range(1 + seed, ops + 1, 2):
        outside = deepcopy(start)
        outside.disk.crash_at = crash_at
        with pytest.raises(SimulatedCrash):
            open_job(outside, after)
        outside.disk = outside.disk.after_crash(seed)
        again, _ = _started(outside, after)
        assert again == good, f"after a crash before operation {crash_at}"
        if crash_at % 3 == 0:
            run(outside, after)
            check_output(outside)


def _started(outside: Outside, workers: int) -> tuple[Any, int]:
    """What a start makes of a store and of targets, and how many operations it takes."""
    with opened(outside, workers) as job:
        ops = outside.disk.ops
        found = contents(job)
        epochs = {shard: epoch for shard, (_, epoch) in outside.markers.items()}
        return (found, outside.rows, outside.files, epochs), ops


def test_old_shards_are_opened_as_they_were_and_fenced_before_anything_else():
    """By the old index and count; published only where that is missing; and closed."""
    outside = crashed(2)
    behind = [shard for (step, shard), (_, epoch) in outside.markers.items() if epoch < 4]
    assert len(behind) == 3
    with opened(outside, 3):
        pass
    calls = [call for call in outside.log if "worker-0" in call]
    wanted = [
        ("build", "worker-0", 2),
        ("begin", "flow.table", "worker-0"),
        ("published", "flow.table", "worker-0"),
        ("publish", "flow.table", "worker-0", 4),
        ("close", "flow.table", "worker-0"),
    ]
    assert calls == [call for call in wanted if call[0] != "publish" or "worker-0" in behind]
    published = {call[2] for call in outside.log if call[0] == "publish"}
    assert published == set(behind)
    assert {epoch for _, epoch in outside.markers.values()} == {4}
    # Cut to their positions, though they have no marker.
    assert [call[0] for call in outside.log if "f0" in call] == ["cut"]


def test_a_target_that_takes_its_time_is_waited_for():
    """By the waiter, as often as it says that it is pending."""
    outside, time = crashed(2, pending=3), FakeTime()
    with opened(outside, 1, time=time):
        assert len(time.waits) == 3 * 3
        assert min(time.waits) > 0


@pytest.mark.parametrize("shard", ["worker-1", "l1"])
def test_a_target_that_can_not_be_reached_stops_the_start(shard: str):
    """The store is in force as it was, for its old workers too."""
    outside = crashed(2)
    outside.down = {shard}
    with pytest.raises(EngineRuntimeError, match=f"settling shard '{shard}'") as caught:
        open_job(outside, 3)
    assert "drop-step /store flow." in caught.value.__notes__[0]
    with pytest.raises(EngineRuntimeError):
        open_job(outside, 1)
    outside.down = set()
    with opened(outside, 2) as job:
        assert len(job._stores) == 2
    run(outside, 3)
    check_output(outside)


def test_a_target_that_has_lost_its_marker_stops_the_start():
    """Nobody knows what of it is out."""
    outside = crashed(2)
    shard = next(shard for shard, (_, epoch) in outside.markers.items() if epoch < 4)
    outside.markers[shard] = (0, 1)
    with pytest.raises(EngineRuntimeError, match="lost its marker"):
        open_job(outside, 3)


def test_after_a_rescale_it_is_known_what_is_out():
    """Of the shards that go on, even before an epoch; the others are done with."""
    outside = crashed(3)
    with opened(outside, 2) as job:
        published = job.workers[0].published
        assert published("flow.table", "worker-1") == published("flow.ledger", "l1") == 4
        assert published("flow.table", "worker-2") is None
    outside.markers["flow.table", "worker-1"] = (0, 3)
    outside.log.clear()
    with pytest.raises(EngineRuntimeError, match="'worker-1' of sink 'flow.table'(.|\n)*marker"):
        open_job(outside, 1)
    assert [call for call in outside.log if call[0] == "build" and "worker" in call[1]] == [
        ("build", "worker-0", 2),
        ("build", "worker-1", 2),
    ]


def test_a_sink_that_keeps_no_marker_any_more_is_refused_while_rows_wait():
    """Whether they are out is not known; once an epoch without any has ended it may change."""
    outside = crashed(2)

    def plain_flow(outside: Outside) -> Dataflow:
        flow = flow_of(outside)
        table = next(step for step in flow.substeps if step.step_id == "flow.table")
        table.params["sink"].part = PlainPart
        return flow

    for workers in (1, 2):
        with pytest.raises(EngineError, match="not of that kind any more"):
            run(outside, workers, flow_of=plain_flow)
        outside.disk = outside.disk.after_crash(workers)
    run(outside, 2)
    check_output(outside)
    run(outside, 2)
    run(outside, 1, flow_of=plain_flow)


class PlainPart(TablePart):
    """As its sink was before it knew of markers."""

    def published(self) -> int | None:
        return None


def test_a_partition_that_is_gone_is_settled_once():
    """It is cut, or published, by its last state; a run without it leaves it alone."""
    outside = crashed(2)
    assert outside.markers["flow.ledger", "l1"][1] == 3
    outside.files["f1"].append("not committed")
    outside.file_names, outside.ledgers = ["f0"], ["l0"]
    with opened(outside, 2):
        assert outside.markers["flow.ledger", "l1"][1] == 4
        assert "not committed" not in outside.files["f1"]
    with opened(outside, 2):
        # Again, for nothing was committed in between.
        assert outside.log.count(("begin", "flow.ledger", "l1")) == 2
    run(outside, 2)
    outside.log.clear()
    with opened(outside, 2):
        assert not [call for call in outside.log if "l1" in call or "f1" in call]
    cut = len(outside.files["f1"])
    outside.file_names, outside.ledgers = ["f0", "f1"], ["l0", "l1"]
    outside.source = {name: [*records, ("z", 1)] for name, records in outside.source.items()}
    run(outside, 2)
    # It came back where it was.
    assert ("cut", "f1", cut) in outside.log


def test_rows_of_partitions_that_moved_are_deleted():
    """In the epoch in which their new worker saves its own; there is one row of each then."""
    outside = crashed(2)
    before = _rows(outside, "flow.in")
    outside.source = {"new": [("n", 17)], **outside.source}
    run(outside, 2)
    after = _rows(outside, "flow.in")
    assert sorted(name for names in after for name in names) == ["new", "p0", "p1", "p2"]
    assert [set(b) & set(a) for b, a in zip(before, after, strict=True)] != list(map(set, before))
    assert verify(outside.disk, MemoryTables(outside.disk), ROOT).faults == []


def _rows(outside: Outside, step_id: str) -> list[list[str]]:
    with opened(outside, 2) as job:
        return [sorted(store.partitions(step_id)) for store in job._stores]


def test_a_rescale_puts_partitions_where_they_are_read():
    """Source and sink partitions are with the workers that will have them."""
    outside = crashed(2)
    with opened(outside, 3) as job:
        for step_id, dealt in (*job.deal.sources.items(), *job.deal.sinks.items()):
            for worker, store in enumerate(job._stores):
                mine = {name for name, owner in dealt.items() if owner == worker}
                assert set(store.partitions(step_id)) == mine


def test_a_source_partition_that_is_gone_stops_the_start():
    """With the ways out; once it is back, the store goes on."""
    outside = crashed(2)
    p1 = outside.source.pop("p1")
    wanted = "no partition 'p1' any more(.|\n)*drop-step /store flow.in"
    with pytest.raises(InconsistentPartitionsError, match=wanted):
        open_job(outside, 3)
    assert outside.log == []
    outside.source["p1"] = p1
    run(outside, 3)
    check_output(outside)


def test_progress_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch):
    """A line at the start, one every few seconds, and one at the end."""
    outside, told = crashed(2), []
    monkeypatch.setattr("engine.recovery._rescale._BATCH_ROWS", 1)
    time = FakeTime()
    monkeypatch.setattr(time, "monotonic_s", iter(range(0, 10_000, 2)).__next__)
    with opened(outside, 3, told=told, time=time):
        pass
    assert told[0] == "settling 6 shards of sinks of the run before"
    assert told[1] == "re-sharding the store from 2 to 3 workers"
    assert told[2].startswith("re-sharding the store: 3 of about ")
    assert told[-1].startswith("re-sharded the store: ")
    assert 5 < len(told) < 15


def test_a_start_with_as_many_workers_tells_nothing():
    """And settles nothing but by the workers that go on."""
    outside, told = crashed(2), []
    with opened(outside, 2, told=told):
        assert told == []
        assert outside.log == []
