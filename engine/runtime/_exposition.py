"""What a monitor knows, in the words of Prometheus: names, labels, kinds.

The registry is one of its own, so that nothing else of the process is shown, and nothing of the
engine shows up where a flow serves metrics itself. `docs/metrics.md` has the same list for people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, TypeAlias, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from engine.connectors import Lag
from engine.runtime._counts import (
    ActorsSnapshot,
    ResourceSnapshot,
    StateSnapshot,
    StepSnapshot,
    TasksSnapshot,
    WatermarkSnapshot,
    WorkerSnapshot,
)
from engine.runtime._monitor import EPOCH_DURATION_BOUNDS_S, Monitor

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ITEM_BITS = (1, 4, 7, 10, 13, 16)
"""Bounds of batches: 1, 15, 127, 1023, 8191 and 65535 items."""
_MICRO_BITS = (4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24)
"""Bounds of calls: 16, 64, 256, 1024 µs and so on, up to 16.8 s."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """The sample of a histogram."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    """How many lie between two bounds; the last is what lies above all of them."""
    total: float


Value: TypeAlias = "float | Histogram | None"
"""A sample; None if there is none."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Described(Generic[T]):
    """A metric: what it is called and how its sample is had.

    Counters and histograms go up until the worker begins anew.
    """

    name: str
    kind: type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]
    text: str
    value: Callable[[T], Value]

    def family(self, labels: Sequence[str], samples: Iterator[tuple[Sequence[str], T]]) -> Metric:
        """With a sample for each set of labels that has one."""
        family = self.kind(self.name, self.text, labels=labels)
        for of, what in samples:
            value = self.value(what)
            if isinstance(value, Histogram):
                assert isinstance(family, HistogramMetricFamily)  # noqa: S101
                names = [*map(str, value.bounds), "+Inf"]
                buckets = list(zip(names, accumulate(value.counts), strict=True))
                family.add_metric(of, buckets, value.total)
            elif value is not None:
                assert not isinstance(family, HistogramMetricFamily)  # noqa: S101
                family.add_metric(of, value)
        return family


def _histogram(
    numbers: Sequence[int], bits: tuple[int, ...], total: float, unit: float = 1.0
) -> Histogram:
    """Of how many measurements there were of each bit length; a unit is what one of them is of."""
    edges = [0, *(bit + 1 for bit in bits)]
    counts = [sum(numbers[low:high]) for low, high in zip(edges, [*edges[1:], None], strict=True)]
    return Histogram(tuple(_bound(bit, unit) for bit in bits), tuple(counts), total)


def _bound(bit: int, unit: float) -> float:
    """The highest number of so many bits; of times, which are rounded down, the next one."""
    return float(2**bit - 1) if unit == 1.0 else round(2**bit * unit, 6)


_OF_STEPS: tuple[_Described[StepSnapshot], ...] = (
    _Described(
        "engine_items_in",
        CounterMetricFamily,
        "Items that the step has taken.",
        lambda step: step.items_in,
    ),
    _Described(
        "engine_items_out",
        CounterMetricFamily,
        "Items that the step has given.",
        lambda step: step.items_out,
    ),
    _Described(
        "engine_batch_items",
        HistogramMetricFamily,
        "Items in each batch that the step has taken.",
        lambda step: _histogram(step.batch_sizes, _ITEM_BITS, step.items_in),
    ),
    _Described(
        "engine_step_duration_seconds",
        HistogramMetricFamily,
        "Time that the step took for a batch, a poll or its timers; of busy steps, of a sample.",
        lambda step: _histogram(step.durations, _MICRO_BITS, step.duration_s, 1e-6),
    ),
    _Described(
        "engine_queue_batches",
        GaugeMetricFamily,
        "Batches and barriers that wait before the step.",
        lambda step: step.queued,
    ),
    _Described(
        "engine_backpressure_seconds",
        CounterMetricFamily,
        "Time that the step had something to do and had to wait for those after it.",
        lambda step: step.held_s,
    ),
    _Described(
        "engine_alignment_seconds",
        CounterMetricFamily,
        "Time that the step waited for an epoch's other barriers after the first one.",
        lambda step: None if step.queued is None else step.aligning_s,
    ),
)
_OF_STATES: tuple[_Described[StateSnapshot], ...] = (
    _Described(
        "engine_state_keys",
        GaugeMetricFamily,
        "Keys of the step whose state is in memory.",
        lambda state: state.keys,
    ),
    _Described(
        "engine_state_bytes",
        GaugeMetricFamily,
        "Memory that these states take, estimated from some of them.",
        lambda state: state.nbytes,
    ),
)
_OF_WATERMARKS: tuple[_Described[WatermarkSnapshot], ...] = (
    _Described(
        "engine_watermark_seconds",
        GaugeMetricFamily,
        "Watermark of the step, in seconds since 1970.",
        lambda watermark: watermark.at_s,
    ),
    _Described(
        "engine_watermark_lag_seconds",
        GaugeMetricFamily,
        "How far the watermark of the step is behind the wall clock.",
        lambda watermark: watermark.lag_s,
    ),
)
_OF_TASKS: tuple[_Described[TasksSnapshot], ...] = (
    _Described(
        "engine_tasks_waiting",
        GaugeMetricFamily,
        "Tasks of the step that were not submitted yet.",
        lambda tasks: tasks.waiting,
    ),
    _Described(
        "engine_tasks_running",
        GaugeMetricFamily,
        "Tasks of the step of which a try is under way.",
        lambda tasks: tasks.running,
    ),
    _Described(
        "engine_tasks_resting",
        GaugeMetricFamily,
        "Tasks of the step between two tries.",
        lambda tasks: tasks.resting,
    ),
    _Described(
        "engine_tasks_ended",
        GaugeMetricFamily,
        "Tasks of the step that have ended and wait for their turn to be emitted.",
        lambda tasks: tasks.ended,
    ),
    _Described(
        "engine_tasks_done",
        CounterMetricFamily,
        "Tasks of the step that have given a result.",
        lambda tasks: tasks.done,
    ),
    _Described(
        "engine_tasks_failed",
        CounterMetricFamily,
        "Tasks of the step that have failed for good.",
        lambda tasks: tasks.failed,
    ),
    _Described(
        "engine_task_retries",
        CounterMetricFamily,
        "Tries of tasks of the step that were not the first.",
        lambda tasks: tasks.again,
    ),
    _Described(
        "engine_task_duration_seconds",
        HistogramMetricFamily,
        "Time from when a try was submitted until the step heard of its end.",
        lambda tasks: _histogram(tasks.durations, _MICRO_BITS, tasks.duration_s, 1e-6),
    ),
    _Described(
        "engine_task_limited_seconds",
        CounterMetricFamily,
        "Time that the step could have submitted something but for its rate.",
        lambda tasks: tasks.limited_s,
    ),
)
_OF_ACTORS: tuple[_Described[ActorsSnapshot], ...] = (
    _Described(
        "engine_actor_messages_waiting",
        GaugeMetricFamily,
        "Messages to actors of the step that wait in mailboxes.",
        lambda actors: actors.waiting,
    ),
    _Described(
        "engine_actor_messages_handled",
        CounterMetricFamily,
        "Messages that actors of the step are done with.",
        lambda actors: actors.handled,
    ),
    _Described(
        "engine_actor_dead_letters",
        CounterMetricFamily,
        "Messages that no actor of the step has handled.",
        lambda actors: actors.dead,
    ),
    _Described(
        "engine_actor_failures",
        CounterMetricFamily,
        "How often a handler of the step has raised.",
        lambda actors: actors.failed,
    ),
    _Described(
        "engine_actor_retries",
        CounterMetricFamily,
        "How often a message was to be tried again after that.",
        lambda actors: actors.again,
    ),
    _Described(
        "engine_actor_restarts",
        CounterMetricFamily,
        "How often an actor of the step has begun again with a fresh state.",
        lambda actors: actors.restarted,
    ),
    _Described(
        "engine_actor_messages_sent",
        CounterMetricFamily,
        "Messages of actors of the step to those of other workers.",
        lambda actors: actors.sent,
    ),
    _Described(
        "engine_actor_messages_received",
        CounterMetricFamily,
        "Messages of actors of other workers to those of the step.",
        lambda actors: actors.received,
    ),
)
_OF_LENT: tuple[_Described[int], ...] = (
    _Described(
        "engine_task_calls_lent",
        CounterMetricFamily,
        "Calls of tasks of the step that the worker has given to others to run.",
        lambda count: count,
    ),
)
_OF_RESOURCES: tuple[_Described[ResourceSnapshot], ...] = (
    _Described(
        "engine_resources_offered",
        GaugeMetricFamily,
        "How much of the resource the worker offers to tasks.",
        lambda resource: resource.offered,
    ),
    _Described(
        "engine_resources_taken",
        GaugeMetricFamily,
        "How much of it tasks have taken.",
        lambda resource: resource.taken,
    ),
)
_OF_POLICIES: tuple[_Described[int], ...] = (
    _Described(
        "engine_items_left_out",
        CounterMetricFamily,
        "Items that the step has gone on without, because its function raised for them.",
        lambda count: count,
    ),
)
_OF_PARTITIONS: tuple[_Described[Lag], ...] = (
    _Described(
        "engine_source_lag_records",
        GaugeMetricFamily,
        "Records that are known to wait in the partition of the source.",
        lambda lag: lag.records,
    ),
    _Described(
        "engine_source_lag_seconds",
        GaugeMetricFamily,
        "Age of the newest record that was read of the partition while others wait; else 0.",
        lambda lag: lag.seconds,
    ),
)
_OF_WORKERS: tuple[_Described[tuple[WorkerSnapshot, float]], ...] = (
    _Described(
        "engine_busy_seconds",
        CounterMetricFamily,
        "Time that the worker was not waiting for something to do.",
        lambda worker: worker[0].busy_s,
    ),
    _Described(
        "engine_exchange_sent_bytes",
        CounterMetricFamily,
        "Bytes sent to workers of other processes.",
        lambda worker: worker[0].sent_bytes,
    ),
    _Described(
        "engine_exchange_received_bytes",
        CounterMetricFamily,
        "Bytes received from workers of other processes.",
        lambda worker: worker[0].received_bytes,
    ),
    _Described(
        "engine_report_age_seconds",
        GaugeMetricFamily,
        "How long ago the worker said what is shown of it here.",
        lambda worker: worker[1],
    ),
)
_OF_JOB: tuple[_Described[Monitor], ...] = (
    _Described(
        "engine_epoch",
        GaugeMetricFamily,
        "Number of the epoch that is open or on its way.",
        lambda job: job.epochs.number,
    ),
    _Described(
        "engine_epoch_age_seconds",
        GaugeMetricFamily,
        "Time since the epoch before it was published everywhere, or since the start.",
        lambda job: job.now_s() - job.epochs.began_s,
    ),
    _Described(
        "engine_epoch_duration_seconds",
        HistogramMetricFamily,
        "Time from the close of an epoch until all workers had published it.",
        lambda job: Histogram(EPOCH_DURATION_BOUNDS_S, job.epochs.durations, job.epochs.duration_s),
    ),
    _Described(
        "engine_restarts",
        CounterMetricFamily,
        "How often the job went on from its last epoch after a process had died.",
        lambda job: job.restarts,
    ),
)


class JobCollector:
    """Makes families of metrics of what a monitor knows.

    Args:
        monitor: Of the job.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        """All of them, those without a sample too."""
        workers = [(str(heard[0].worker), heard) for heard in self._monitor.workers()]
        for of_step in _OF_STEPS:
            steps = (
                ([step_id, name], step)
                for name, (snapshot, _) in workers
                for step_id, step in snapshot.steps.items()
            )
            yield of_step.family(["step_id", "worker_index"], steps)
        for of_state in _OF_STATES:
            states = (
                ([step_id, name], state)
                for name, (snapshot, _) in workers
                for step_id, state in snapshot.states.items()
            )
            yield of_state.family(["step_id", "worker_index"], states)
        for of_watermark in _OF_WATERMARKS:
            watermarks = (
                ([step_id, name], watermark)
                for name, (snapshot, _) in workers
                for step_id, watermark in snapshot.watermarks.items()
            )
            yield of_watermark.family(["step_id", "worker_index"], watermarks)
        for of_tasks in _OF_TASKS:
            tasks = (
                ([step_id, name], its_tasks)
                for name, (snapshot, _) in workers
                for step_id, its_tasks in snapshot.tasks.items()
            )
            yield of_tasks.family(["step_id", "worker_index"], tasks)
        for of_actors in _OF_ACTORS:
            actors = (
                ([step_id, name], its_actors)
                for name, (snapshot, _) in workers
                for step_id, its_actors in snapshot.actors.items()
            )
            yield of_actors.family(["step_id", "worker_index"], actors)
        yield from _lent_and_taken(workers)
        for of_policy in _OF_POLICIES:
            left_out = (
                ([step_id, name, policy], count)
                for name, (snapshot, _) in workers
                for (step_id, policy), count in snapshot.left_out.items()
            )
            yield of_policy.family(["step_id", "worker_index", "on_error"], left_out)
        for of_partition in _OF_PARTITIONS:
            lags = (
                ([step_id, name, partition], lag)
                for name, (snapshot, _) in workers
                for step_id, partitions in snapshot.lags.items()
                for partition, lag in partitions.items()
            )
            yield of_partition.family(["step_id", "worker_index", "partition"], lags)
        for of_worker in _OF_WORKERS:
            yield of_worker.family(["worker_index"], (([name], heard) for name, heard in workers))
        for of_job in _OF_JOB:
            yield of_job.family([], iter([((), self._monitor)]))


def _lent_and_taken(workers: list[tuple[str, tuple[WorkerSnapshot, float]]]) -> Iterator[Metric]:
    """What tasks take of workers, and which of them they ask."""
    for of_lent in _OF_LENT:
        lent = (
            ([step_id, name], count)
            for name, (snapshot, _) in workers
            for step_id, count in snapshot.lent.items()
        )
        yield of_lent.family(["step_id", "worker_index"], lent)
    for of_resource in _OF_RESOURCES:
        resources = (
            ([resource, name], amounts)
            for name, (snapshot, _) in workers
            for resource, amounts in snapshot.resources.items()
        )
        yield of_resource.family(["resource", "worker_index"], resources)


def exposition(monitor: Monitor) -> bytes:
    """All metrics as text, in the format that Prometheus scrapes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(JobCollector(monitor))
    return generate_latest(registry)
