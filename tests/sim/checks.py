"""What must hold of any flow in any schedule, checked on the random flow of a seed.

`check_outcome` compares what came out in the end with the oracle. `check_cuts` looks at every
epoch, as exactly-once recovery rests on it: what the sinks had taken when they prepared it is just
what the flow makes of the records that the sources had given when they noted their positions for
it. Not one fewer, not one more. `check_queues` sees that channels are bounded.
"""

from __future__ import annotations

import random
import zlib
from datetime import timedelta
from typing import Any

import engine.operators as op
from engine.dataflow import Dataflow
from engine.testing import TestingSink, TestingSource
from engine.testing.sim import SimOptions, SimResult, simulate
from tests.sim.logged import Ledger, LoggedPartitionedSink, LoggedSink, LoggedSource
from tests.sim.random_flows import ListRun, RandomFlow, Records, draw

_PARTS = ("0", "1")
_ROOMS = (1, 500, 1 << 20)
"""In bytes: for a batch, for some records, for more than there are."""


def check_outcome(seed: int) -> None:
    """Run the flow of a seed, with steps that emit at the end too, and check what came out."""
    rng = random.Random(seed)
    run = ListRun(draw(seed), rng)
    simulate(run.flow(), seed, _options(rng))
    run.check()


def check_abort(seed: int) -> None:
    """Run the flow of a seed with a source that aborts it, and check what came out by then."""
    rng = random.Random(seed)
    run = ListRun(draw(seed, streaming=True), rng, aborts=True)
    result = simulate(run.flow(), seed, _options(rng))
    assert result.aborted
    run.check()


def check_cuts(seed: int) -> None:
    """Run the flow of a seed with sources and sinks that take notes, and check every epoch."""
    run = _CutRun(seed, workers=(1, 2, 2, 3)[seed % 4], interval_s=(0.0, 0.03, 0.03)[seed % 3])
    run.check(run.run())


def check_queues(seed: int) -> None:
    """Run a flow whose batches don't become more: no channel holds more than it may and a batch."""
    rng = random.Random(seed)
    partitions, batch_size, record_bytes = rng.choice([1, 4]), rng.choice([1, 2, 7]), 1000

    class Many(TestingSource[Any]):
        def list_parts(self) -> list[str]:
            return [str(number) for number in range(partitions)]

    flow = Dataflow("queues")
    made = [str(number).encode().ljust(record_bytes) for number in range(60)]
    dealt = op.redistribute("deal", op.input("in", flow, Many(made, batch_size=batch_size)))
    keyed = op.key_on("key", dealt, lambda record: str(int(record) % 5))
    same = op.stateful_map("same", keyed, lambda state, record: (state, record))
    op.output("out", same, TestingSink([]))
    options = SimOptions(
        workers=rng.choice([2, 3]),
        channel_batches=rng.choice([1, 2, 5]),
        channel_bytes=rng.choice([1, 3, 20]) * record_bytes,
        epoch_interval=timedelta(milliseconds=5),
    )
    result = simulate(flow, seed, options)
    # One more for a barrier, one for the end.
    assert result.queued_max <= options.channel_batches + 2, "more batches than there is room for"
    # A record is a key, a value and a tuple of both.
    batch_bytes = batch_size * (record_bytes + 200)
    assert result.queued_bytes_max > 0
    assert result.queued_bytes_max < options.channel_bytes + batch_bytes, "more bytes than that"


def _options(rng: random.Random) -> SimOptions:
    return SimOptions(
        workers=rng.choice([1, 2, 3, 4]),
        epoch_interval=timedelta(seconds=rng.choice([0, 10])),
        channel_batches=rng.choice([1, 2, 3]),
        step_max=timedelta(milliseconds=rng.choice([0, 100])),
        delay_max=timedelta(milliseconds=rng.choice([0, 10, 500])),
        pause_max=timedelta(milliseconds=rng.choice([0, 200])),
        kernels=rng.random() < 0.7,
        steps_max=20_000,
        channel_bytes=rng.choice(_ROOMS),
    )


class _CutRun:
    """One drawn flow in one simulated run."""

    def __init__(self, seed: int, workers: int, interval_s: float) -> None:
        self._seed = seed
        self._workers = workers
        self._interval_s = interval_s
        self._drawn: RandomFlow = draw(seed, streaming=True)
        self._parts = [_dealt(records) for records in self._drawn.inputs]
        self.ledger = Ledger(random.Random(seed))

    def run(self) -> SimResult:
        """Simulate the run; `check` then looks at what happened."""
        rng = random.Random(self._seed)
        sources = [
            LoggedSource(f"in{i}", parts, self.ledger) for i, parts in enumerate(self._parts)
        ]
        partitioned = {leaf: rng.random() < 0.4 for leaf in self._drawn.leaves}

        def sink_of(leaf: int) -> tuple[Any, bool]:
            if partitioned[leaf]:
                return LoggedPartitionedSink(leaf, self.ledger), True
            return LoggedSink(leaf, self.ledger), False

        options = SimOptions(
            workers=self._workers,
            epoch_interval=timedelta(seconds=self._interval_s),
            channel_batches=rng.choice([1, 2, 3]),
            step_max=timedelta(milliseconds=rng.choice([0, 1])),
            delay_max=timedelta(milliseconds=rng.choice([0, 3, 30])),
            pause_max=timedelta(milliseconds=rng.choice([0, 20])),
            steps_max=20_000,
            channel_bytes=rng.choice(_ROOMS),
        )
        return simulate(self._drawn.build(sources, sink_of), self._seed, options)

    def check(self, result: SimResult) -> None:
        """Everything that must hold after the run."""
        ledger = self.ledger
        assert ledger.epochs() == list(range(1, result.epochs + 1))
        for epoch in ledger.epochs():
            self._check_cut(epoch)
            assert ledger.committed[epoch] == len(ledger.positions)
        for part, cuts in ledger.cuts.items():
            assert list(cuts) == ledger.published[part]
            assert max(cuts, default=result.epochs) == result.epochs
        for leaf in self._drawn.leaves:
            self._drawn.check(leaf, self._written(leaf, None))
        if self._interval_s == 0:
            self._check_batches()

    def _check_cut(self, epoch: int) -> None:
        inputs: list[Records] = []
        for i, parts in enumerate(self._parts):
            inputs.append([])
            for name, records in parts.items():
                inputs[-1] += records[: self.ledger.positions[f"in{i}-{name}"][epoch - 1]]
        for leaf in self._drawn.leaves:
            self._drawn.check(leaf, self._written(leaf, epoch), inputs)

    def _written(self, leaf: int, epoch: int | None) -> Records:
        """What a leaf's partitions had got by an epoch, or in the end."""
        found: Records = []
        for name, records in self.ledger.written.get(leaf, {}).items():
            cuts = self.ledger.cuts[leaf, name]
            found += records if epoch is None else records[: cuts.get(epoch, 0)]
        return found

    def _check_batches(self) -> None:
        """With no interval, an epoch has at most one batch on each worker."""
        polls = self.ledger.polls.values()
        assert all(count <= 1 for counts in polls for count in counts)
        for counts in zip(*polls, strict=True):
            assert sum(counts) <= self._workers


def _dealt(records: Records) -> dict[str, Records]:
    """Records in two partitions by key, so that each key keeps its order."""
    parts: dict[str, Records] = {name: [] for name in _PARTS}
    for record in records:
        parts[_PARTS[zlib.crc32(repr(record[0]).encode()) % 2]].append(record)
    return parts
