"""What every sink must do, wherever it writes: one suite, run on each.

To put a sink under it, add a `SinkCase` to the list in `test_sinks.py`, or subclass `SinkSuite` in
a module of its own, parametrised with cases. `Job` calls the partitions in the order that the
runtime promises and can crash before any of these calls; `Durable` is what survives it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from engine.connectors import (
    PENDING,
    DynamicSink,
    FencedError,
    FixedPartitionedSink,
    Pending,
    Sink,
    SinkSession,
    StatefulSinkPartition,
    StatelessSinkPartition,
)
from tests.conformance.world import World, nothing_blocks

T = TypeVar("T")

_MOST_QUESTIONS = 100


@dataclass(frozen=True)
class SinkCase:
    """One sink to test.

    Attributes:
        name: Id of the case.
        build: Makes the sink; called again for each "run", in the same world.
        read: Gives what is now visible at the target, as a list of records for each part.
        epochs: What is written: batches of records, per epoch.
        written: What `read` gives after each epoch of a run without a crash, the last one being
            the whole output.
    """

    name: str
    build: Callable[[World], Sink[Any]]
    read: Callable[[World], dict[str, list[Any]]]
    epochs: list[list[list[Any]]]
    written: list[dict[str, list[Any]]]

    def __str__(self) -> str:
        return self.name


class Crash(Exception):  # noqa: N818 (it stands for a death, not for an error)
    """The process is gone."""


@dataclass
class Durable:
    """What the recovery store keeps of a job: the last durable epoch with its states and rows."""

    epoch: int = 0
    generation: int = 0
    states: dict[str, Any] = field(default_factory=dict[str, Any])
    rows: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])
    noted: dict[str, int] = field(default_factory=dict[str, int])
    """The last epoch that each shard with a marker was seen to have published."""
    worker_count: int = 1
    """Of the run that made the epoch durable."""


class Job:
    """One run of a sink, from the last durable epoch until its input ends or it crashes.

    Args:
        sink: What to run.
        durable: What earlier runs left; this run changes it.
        crash_before: Crash before this call to a partition, counted from 0.
        worker_count: Into how many partitions a `DynamicSink`'s records are dealt.
    """

    def __init__(
        self,
        sink: Sink[Any],
        durable: Durable,
        crash_before: int | None = None,
        worker_count: int = 1,
    ) -> None:
        self.calls = 0
        self._sink = sink
        self._durable = durable
        self._crash_before = crash_before
        self._worker_count = worker_count
        self._parts: dict[str, Any] = {}

    def run(self, epochs: list[list[list[Any]]]) -> None:
        """Write all epochs that are not durable yet."""
        self._durable.generation += 1
        if self._durable.epoch and self._durable.worker_count != self._worker_count:
            self._settle()
        self._open(self._worker_count)
        for epoch, batches in enumerate(epochs, 1):
            if epoch > self._durable.epoch:
                self._run_epoch(epoch, batches)
        self.close()

    def _run_epoch(self, epoch: int, batches: list[list[Any]]) -> None:
        for batch in batches:
            self._write(batch)
        for part in self._parts.values():
            assert self._poll(part.flush) is None
        rows = {name: self._rows(part, epoch) for name, part in self._parts.items()}
        states = {
            name: self._call(part.snapshot)
            for name, part in self._parts.items()
            if isinstance(part, StatefulSinkPartition)
        }
        self._call(partial(self._commit, epoch, states, rows))
        self._publish(epoch)

    def _commit(self, epoch: int, states: dict[str, Any], rows: dict[str, list[bytes]]) -> None:
        self._durable.epoch = epoch
        self._durable.states = states
        self._durable.rows = rows
        self._durable.worker_count = self._worker_count

    def _rows(self, part: Any, epoch: int) -> list[bytes]:
        rows: list[bytes] = self._poll(partial(part.prepare, epoch))
        assert all(type(row) is bytes for row in rows)
        return rows

    def _publish(self, epoch: int) -> None:
        for name, part in self._parts.items():
            self._publish_part(name, part, epoch)

    def _publish_part(self, name: str, part: Any, epoch: int) -> None:
        rows = self._durable.rows.get(name, [])
        assert self._poll(partial(part.publish, epoch, rows)) is None
        if name in self._durable.noted:
            self._durable.noted[name] = epoch

    def _settle(self) -> None:
        """Bring the shards of a run with another number of workers to an end."""
        self._open(self._durable.worker_count)
        self.close()
        self._parts.clear()

    def _open(self, worker_count: int) -> None:
        for name in self._names(worker_count):
            self._parts[name] = self._call(partial(self._build, name, worker_count))
            self._call(partial(self._parts[name].begin, session(name, self._durable.generation)))
        for name, part in self._parts.items():
            last = self._call(part.published)
            if last is None:
                continue
            assert type(last) is int
            assert self._durable.noted.get(name, 0) <= last <= self._durable.epoch
            self._durable.noted[name] = last
            if name in self._durable.rows and last < self._durable.epoch:
                self._publish_part(name, part, self._durable.epoch)

    def _names(self, worker_count: int) -> list[str]:
        if isinstance(self._sink, FixedPartitionedSink):
            return sorted(self._sink.list_parts())
        return [f"worker-{index}" for index in range(worker_count)]

    def _build(self, name: str, worker_count: int) -> Any:
        if isinstance(self._sink, FixedPartitionedSink):
            state = self._durable.states.get(name)
            stateful = self._sink.build_part("flow.out", name, state)
            assert isinstance(stateful, StatefulSinkPartition)
            return stateful
        assert isinstance(self._sink, DynamicSink)
        worker_index = int(name.removeprefix("worker-"))
        stateless = self._sink.build("flow.out", worker_index, worker_count)
        assert isinstance(stateless, StatelessSinkPartition)
        return stateless

    def _write(self, batch: list[Any]) -> None:
        names = sorted(self._parts)
        by_part: dict[str, list[Any]] = {}
        for number, record in enumerate(batch):
            if isinstance(self._sink, FixedPartitionedSink):
                key, value = record
                name = names[self._sink.part_fn(key) % len(names)]
                by_part.setdefault(name, []).append(value)
            else:
                by_part.setdefault(names[number % len(names)], []).append(record)
        for name, values in by_part.items():
            self._call(partial(self._parts[name].write_batch, values))

    def _call(self, step: Callable[[], T]) -> T:
        if self.calls == self._crash_before:
            raise Crash
        self.calls += 1
        return step()

    def _poll(self, step: Callable[[], T | Pending]) -> T:
        return ask(lambda: self._call(step))

    def close(self) -> None:
        """Close the partitions, those of a crashed run too, so that none is left open."""
        for part in self._parts.values():
            part.close()


def ask(step: Callable[[], T | Pending]) -> T:
    """Ask until the answer is no longer `PENDING`."""
    for _ in range(_MOST_QUESTIONS):
        answer = step()
        if answer is not PENDING:
            return cast("T", answer)
    pytest.fail(f"still pending after {_MOST_QUESTIONS} questions")


def session(shard: str, generation: int, store_id: str = "the store") -> SinkSession:
    """What a partition is told when it begins."""
    return SinkSession(store_id, generation, "flow.out", shard)


def run_until_crash(
    case: SinkCase, world: World, durable: Durable, crash_before: int, worker_count: int = 1
) -> bool:
    """Run a job that crashes before a call; False if it ended without coming to that call."""
    job = Job(case.build(world), durable, crash_before, worker_count)
    try:
        job.run(case.epochs)
    except Crash:
        job.close()
        return True
    return False


class SinkSuite:
    """The tests. Subclasses are parametrised with `case`."""

    @pytest.fixture
    def new_world(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Callable[[], World]]:
        """Makes one empty outside after the other, in which nothing may block."""
        count = 0

        def make() -> World:
            nonlocal count
            count += 1
            folder = tmp_path / str(count)
            folder.mkdir()
            world = World(folder)
            monkeypatch.setattr(sys, "stdout", world.stdout)
            return world

        with nothing_blocks():
            yield make

    def test_writes_everything_in_order(
        self, case: SinkCase, new_world: Callable[[], World]
    ) -> None:
        """After each number of epochs exactly these are written, in order."""
        for epoch_count, written in enumerate(case.written, 1):
            world = new_world()
            Job(case.build(world), Durable()).run(case.epochs[:epoch_count])
            assert _without_empty(case.read(world)) == _without_empty(written)

    def test_goes_on_after_a_clean_end(
        self, case: SinkCase, new_world: Callable[[], World]
    ) -> None:
        """A run for each epoch gives what one run of all gives."""
        world, durable = new_world(), Durable()
        for epoch_count in range(1, len(case.epochs) + 1):
            Job(case.build(world), durable).run(case.epochs[:epoch_count])
        Job(case.build(world), durable).run(case.epochs)
        assert _without_empty(case.read(world)) == _without_empty(case.written[-1])

    def test_survives_a_crash_before_any_call(
        self, case: SinkCase, new_world: Callable[[], World]
    ) -> None:
        """Resumed after a crash at any point, the output is what the sink's delivery promises."""
        for world, durable in _crashed_everywhere(case, new_world):
            Job(case.build(world), durable).run(case.epochs)
            _check_delivery(case, world)

    def test_survives_a_crash_while_it_recovers(
        self, case: SinkCase, new_world: Callable[[], World]
    ) -> None:
        """A second crash soon after the first changes nothing."""
        for second_crash in range(1, 6):
            for world, durable in _crashed_everywhere(case, new_world):
                run_until_crash(case, world, durable, second_crash)
                Job(case.build(world), durable).run(case.epochs)
                _check_delivery(case, world)

    def test_survives_a_crash_and_another_number_of_workers(
        self, case: SinkCase, new_world: Callable[[], World]
    ) -> None:
        """Two workers crash at any point, then one crashes early; the last run has three."""
        for crash_again in (3, 8):
            for world, durable in _crashed_everywhere(case, new_world, worker_count=2):
                run_until_crash(case, world, durable, crash_again)
                sink = case.build(world)
                Job(sink, durable, worker_count=3).run(case.epochs)
                # Between the workers' partitions of a dynamic sink there is no order.
                _check_delivery(case, world, in_order=isinstance(sink, FixedPartitionedSink))

    def test_published_epochs_are_durable(
        self, case: SinkCase, new_world: Callable[[], World]
    ) -> None:
        """A sink with a marker shows all epochs up to the one it names, which is durable."""
        for world, durable in _crashed_everywhere(case, new_world):
            with _opened(case, world) as part:
                part.begin(session(_first_shard(case, world), durable.generation + 1))
                last = part.published()
                if last is not None:
                    assert last <= durable.epoch
                    visible = [{}, *case.written][last]
                    assert _without_empty(case.read(world)) == _without_empty(visible)

    def test_a_newer_run_fences_an_older_one(
        self, case: SinkCase, new_world: Callable[[], World]
    ) -> None:
        """A paused run can neither publish any more nor begin again; the newer one publishes."""
        world = new_world()
        shard = _first_shard(case, world)
        with _opened(case, world) as old, _opened(case, world) as new:
            old.begin(session(shard, 1))
            if old.published() is None:
                return
            records = _records_for(case, world)
            old.write_batch(records)
            assert ask(old.flush) is None
            rows = ask(partial(old.prepare, 1))
            new.begin(session(shard, 2))
            with pytest.raises(FencedError):
                ask(partial(old.publish, 1, rows))
            with pytest.raises(FencedError):
                old.begin(session(shard, 1))
            assert (new.published(), _without_empty(case.read(world))) == (0, {})
            assert ask(partial(new.publish, 1, rows)) is None
            assert Counter(_all_records(case.read(world).values())) == Counter(records)

    def test_a_generation_may_begin_again(
        self, case: SinkCase, new_world: Callable[[], World]
    ) -> None:
        """A shard that was settled is opened in the same run, and its marker is there."""
        world = new_world()
        shard = _first_shard(case, world)
        with _opened(case, world) as settled:
            settled.begin(session(shard, 3))
            if settled.published() is None:
                return
            ask(partial(settled.publish, 1, []))
        with _opened(case, world) as part:
            part.begin(session(shard, 3))
            assert part.published() == 1
            assert ask(partial(part.publish, 2, [])) is None

    def test_markers_are_of_one_shard_of_one_step_of_one_job(
        self, case: SinkCase, new_world: Callable[[], World]
    ) -> None:
        """What one shard has published is not taken for another's, whose run may be older."""
        world = new_world()
        shard = _first_shard(case, world)
        with _opened(case, world) as part:
            part.begin(session(shard, 2))
            if part.published() is None:
                return
            ask(partial(part.publish, 1, []))
        with _opened(case, world) as part:
            part.begin(session(shard, 1, store_id="another store"))
            assert part.published() == 0
        with _opened(case, world, step_id="flow.other") as part:
            part.begin(SinkSession("the store", 1, "flow.other", shard))
            assert part.published() == 0
        if isinstance(case.build(world), DynamicSink):
            with _opened(case, world, worker_index=1) as part:
                part.begin(session("worker-1", 1))
                assert part.published() == 0

    def test_close_may_be_repeated(self, case: SinkCase, new_world: Callable[[], World]) -> None:
        """Closing twice, with nothing written and after a run, is fine and writes nothing."""
        world = new_world()
        with _opened(case, world) as untouched:
            untouched.close()
        job = Job(case.build(world), Durable())
        job.run(case.epochs)
        job.close()
        assert _without_empty(case.read(world)) == _without_empty(case.written[-1])

    def test_snapshots_stay_as_they_were(
        self, case: SinkCase, new_world: Callable[[], World]
    ) -> None:
        """A snapshot taken twice is equal, also after an empty batch."""
        with _opened(case, new_world()) as part:
            if isinstance(part, StatefulSinkPartition):
                first = part.snapshot()
                part.write_batch([])
                assert part.snapshot() == first

    def test_parts_and_routing_stay(self, case: SinkCase, new_world: Callable[[], World]) -> None:
        """Asked again, by another run too, a sink names the same parts and routes keys alike."""
        world = new_world()
        sink, other = case.build(world), case.build(world)
        if isinstance(sink, FixedPartitionedSink) and isinstance(other, FixedPartitionedSink):
            names = sink.list_parts()
            assert len(set(names)) == len(names) > 0
            assert other.list_parts() == names
            for key in ("", "a", "ключ", "\ud800"):
                assert type(sink.part_fn(key)) is int
                assert sink.part_fn(key) == other.part_fn(key)


def _crashed_everywhere(
    case: SinkCase, new_world: Callable[[], World], worker_count: int = 1
) -> Iterator[tuple[World, Durable]]:
    """A fresh run for each call it makes, crashed before that call."""
    crash_before = 0
    while True:
        world, durable = new_world(), Durable()
        if not run_until_crash(case, world, durable, crash_before, worker_count):
            assert crash_before > 0
            return
        yield world, durable
        crash_before += 1


def _check_delivery(case: SinkCase, world: World, *, in_order: bool = True) -> None:
    read, whole = _without_empty(case.read(world)), _without_empty(case.written[-1])
    if case.build(world).delivery == "exactly-once":
        if in_order:
            assert read == whole
        assert _counted(read) == _counted(whole)
    else:
        lost = Counter(_all_records(whole.values())) - Counter(_all_records(read.values()))
        assert not lost


@contextmanager
def _opened(
    case: SinkCase, world: World, step_id: str = "flow.out", worker_index: int = 0
) -> Iterator[Any]:
    """One partition, the first as a rule, closed in the end."""
    sink = case.build(world)
    if isinstance(sink, FixedPartitionedSink):
        part: Any = sink.build_part(step_id, min(sink.list_parts()), None)
    else:
        assert isinstance(sink, DynamicSink)
        part = sink.build(step_id, worker_index, worker_index + 1)
    with closing(part):
        yield part


def _first_shard(case: SinkCase, world: World) -> str:
    sink = case.build(world)
    return min(sink.list_parts()) if isinstance(sink, FixedPartitionedSink) else "worker-0"


def _records_for(case: SinkCase, world: World) -> list[Any]:
    """What a partition is given of the first epoch, if it is given all of it."""
    records = _all_records(case.epochs[0])
    if isinstance(case.build(world), FixedPartitionedSink):
        return [value for _, value in records]
    return records


def _without_empty(parts: dict[str, list[Any]]) -> dict[str, list[Any]]:
    # Whether a part with nothing in it exists at the target is the sink's own business.
    return {name: records for name, records in parts.items() if records}


def _counted(parts: dict[str, list[Any]]) -> dict[str, Counter[Any]]:
    return {name: Counter(records) for name, records in parts.items()}


def _all_records(parts: Iterable[list[Any]]) -> list[Any]:
    return [record for records in parts for record in records]
