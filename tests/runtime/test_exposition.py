"""The metrics as Prometheus reads them: valid, rightly named, and as documented."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

import engine.operators as op
from engine.connectors import Lag
from engine.dataflow import Dataflow
from engine.operators.actors import Actor, Context, Exponential, Restart, Retry, handles
from engine.operators.tasks import Resources, task
from engine.runtime import RunOptions, run_flow
from engine.runtime._counts import ResourceSnapshot, StateSnapshot, StepSnapshot, WatermarkSnapshot
from engine.runtime._exposition import exposition
from engine.runtime._monitor import Monitor
from engine.testing import TestingSink, TestingSource
from tests.runtime.scripted import FakeTime
from tests.runtime.test_monitor import Watched, said
from tests.runtime.watermarked import watermarked
from tests.tidy.tree import ROOT

LABELS = {"step_id", "worker_index", "partition", "on_error", "resource", "le"}
ROW = re.compile(r"^\| `(engine_\w+)` \| (\w+) \|([^|]*)\| .+ \|$", re.MULTILINE)


def parsed(monitor: Monitor) -> dict[str, Metric]:
    """The families by name."""
    text = exposition(monitor).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(family: Metric, suffix: str = "") -> dict[tuple[str, ...], float]:
    """The samples of one kind by their labels, bounds first."""
    return {
        tuple(sample.labels.values()): sample.value
        for sample in family.samples
        if sample.name == f"{family.name}{suffix}"
    }


class Lagging(TestingSource[int]):
    """A source whose partition always lags behind."""

    def build_part(self, *about: Any) -> Any:
        part: Any = super().build_part(*about)
        part.lag = lambda: Lag(7, 0.5)
        return part


def ran(workers: int = 1) -> Monitor:
    """A monitor of a run that is over."""
    flow, time = Dataflow("flow"), FakeTime()
    keyed = op.key_on("key", op.input("in", flow, Lagging(range(100), 10)), str)
    counted = op.stateful_map("n", keyed, lambda _, n: (1, n)).on_error("skip")
    op.output("out", counted, TestingSink([]))
    op.output("marked", watermarked("mark", keyed), TestingSink([]))
    take = Resources(cpu=0.1)
    called = task("call", keyed, str, executor="inline", resources=take, placement="any")
    op.output("called", called.ok, TestingSink([]))
    acted = op.actor("act", keyed, Neighbour)
    op.output("acted", acted.out, TestingSink([]))
    op.output("dead", acted.dead_letters, TestingSink([]))
    monitor = Monitor(time.monotonic_s)
    run_flow(flow, RunOptions(workers=workers, monitor=monitor))
    return monitor


class Neighbour(Actor):
    """Sends each number on to the actor of the next one; those of ten and above raise for it."""

    supervise = Retry(
        attempts=2, backoff=Exponential(timedelta(0), jitter=0), then=Restart(max=None)
    )

    @handles(int)
    def take(self, ctx: Context, n: int) -> None:
        ctx.tell(Neighbour.ref(str(n + 1)), f"from {n}")

    @handles(str)
    def hear(self, ctx: Context, text: str) -> None:
        if len(ctx.key) > 1:
            raise ValueError(text)


def test_what_was_counted_is_shown_with_its_step_and_worker():
    """Counters, gauges and histograms."""
    watched = Watched()
    step = StepSnapshot(
        *(1201, 7, (0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1), (0, 0, 0, 0, 3, 1), 0.5, 1.5, 2.5, 4)
    )
    states = {"flow.state": StateSnapshot(3, 4000)}
    lags = {"flow.in": {"0-a": Lag(12, None), "1-a": Lag(None, 0.0), "2-a": Lag(0, 3.5)}}
    marks = {"flow.window": WatermarkSnapshot(1e9, 12.5)}
    watched.monitor.counted(
        said(
            *(0, step),
            states=states,
            busy_s=8.5,
            sent_bytes=9,
            lags=lags,
            watermarks=marks,
            left_out={("flow.step", "skip"): 3},
            lent={"flow.step": 5},
            resources={"gpu": ResourceSnapshot(2.0, 0.25)},
        )
    )
    watched.time.now_s += 2.0
    families = parsed(watched.monitor)
    labels = ("flow.step", "0")
    assert values(families["engine_items_in"], "_total") == {labels: 1201.0}
    assert values(families["engine_items_out"], "_total") == {labels: 7.0}
    assert values(families["engine_queue_batches"]) == {labels: 4.0}
    assert values(families["engine_backpressure_seconds"], "_total") == {labels: 1.5}
    assert values(families["engine_alignment_seconds"], "_total") == {labels: 2.5}
    assert values(families["engine_state_keys"]) == {("flow.state", "0"): 3.0}
    assert values(families["engine_state_bytes"]) == {("flow.state", "0"): 4000.0}
    assert values(families["engine_watermark_seconds"]) == {("flow.window", "0"): 1e9}
    assert values(families["engine_watermark_lag_seconds"]) == {("flow.window", "0"): 12.5}
    assert values(families["engine_source_lag_records"]) == {
        ("0-a", "flow.in", "0"): 12.0,
        ("2-a", "flow.in", "0"): 0.0,
    }
    assert values(families["engine_source_lag_seconds"]) == {
        ("1-a", "flow.in", "0"): 0.0,
        ("2-a", "flow.in", "0"): 3.5,
    }
    left_out = values(families["engine_items_left_out"], "_total")
    assert left_out == {("skip", "flow.step", "0"): 3.0}
    assert values(families["engine_task_calls_lent"], "_total") == {labels: 5.0}
    assert values(families["engine_resources_offered"]) == {("gpu", "0"): 2.0}
    assert values(families["engine_resources_taken"]) == {("gpu", "0"): 0.25}
    assert values(families["engine_busy_seconds"], "_total") == {("0",): 8.5}
    assert values(families["engine_exchange_sent_bytes"], "_total") == {("0",): 9.0}
    assert values(families["engine_report_age_seconds"]) == {("0",): 2.0}
    assert values(families["engine_restarts"], "_total") == {(): 0.0}


def test_histograms_have_all_that_was_measured():
    """In cumulative buckets, with sum and count."""
    watched = Watched()
    sizes = (
        0,
        1,
        0,
        0,
        0,
        2,
        0,
        0,
        0,
        0,
        0,
        1,
    )  # A batch of 1, two of up to 31, one of up to 2047.
    durations = (
        *(0,) * 4,
        3,
        1,
        *(0,) * 20,
        1,
    )  # 3 of up to 16 µs, one of up to 32, one of a minute.
    step = replace(StepSnapshot(), items_in=1201, batch_sizes=sizes, durations=durations)
    watched.monitor.counted(said(0, replace(step, duration_s=60.5)))
    families = parsed(watched.monitor)
    batches, calls = families["engine_batch_items"], families["engine_step_duration_seconds"]
    by_bound = {bound: n for (bound, *_), n in values(batches, "_bucket").items()}
    assert list(by_bound.items()) == [
        *(("1.0", 1), ("15.0", 1), ("127.0", 3), ("1023.0", 3), ("8191.0", 4), ("65535.0", 4)),
        ("+Inf", 4),
    ]
    assert list(values(batches, "_sum").values()) == [1201.0]
    assert list(values(batches, "_count").values()) == [4.0]
    by_bound = {bound: n for (bound, *_), n in values(calls, "_bucket").items()}
    assert list(by_bound.items())[:2] == [("1.6e-05", 3), ("6.4e-05", 4)]
    assert list(by_bound.items())[-2:] == [("16.777216", 4), ("+Inf", 5)]
    assert list(values(calls, "_sum").values()) == [60.5]


def test_no_worker_lacks_in_the_samples_of_a_run():
    """Their sums are the input's."""
    families = parsed(ran(3))
    taken = values(families["engine_items_in"], "_total")
    assert sum(n for (step, _), n in taken.items() if step == "flow.n") == 100.0
    assert {worker for step, worker in taken if step == "flow.n"} == {"0", "1", "2"}
    keys = values(families["engine_state_keys"])
    assert sum(n for (step, _), n in keys.items() if step == "flow.n") == 100.0
    assert values(families["engine_epoch_duration_seconds"], "_count") == {(): 1.0}


@pytest.mark.parametrize("workers", [1, 3])
def test_what_actors_have_done_is_shown(workers: int):
    """However they are spread, the sums are the same; what is sent is received."""
    families = parsed(ran(workers))

    def total(name: str) -> float:
        shown = values(families[f"engine_actor_{name}"], "_total")
        assert len(shown) == workers
        return sum(shown.values())

    assert total("messages_handled") == 200.0
    assert total("failures") == 2 * 91.0
    assert total("retries") == total("restarts") == total("dead_letters") == 91.0
    assert total("messages_sent") == total("messages_received")
    assert (total("messages_sent") > 0) is (workers > 1)
    assert set(values(families["engine_actor_messages_waiting"]).values()) == {0.0}
    calls = values(families["engine_step_duration_seconds"], "_count")
    assert sum(n for (step, _), n in calls.items() if step == "flow.act") > 0


def test_names_and_units_are_as_prometheus_has_them():
    """A prefix, base units, `_total` for counters, a help text in a line, no clock of samples."""
    text = exposition(ran()).decode()
    for family in parsed(ran()).values():
        assert re.fullmatch(r"engine_[a-z]+(_[a-z]+)*", family.name)
        assert not re.search(r"_(ms|us|millis\w*|kb|mb|count|total)$", family.name)
        assert family.documentation.endswith(".")
        if family.type == "counter":
            assert f"{family.name}_total" in text
        for sample in family.samples:
            assert set(sample.labels) <= LABELS
            assert sample.timestamp is None
            assert math.isfinite(sample.value)
            assert sample.value >= 0.0


def test_the_document_has_all_metrics_and_no_others():
    """With their kinds and labels."""
    document = ROOT.joinpath("docs/metrics.md").read_text(encoding="utf-8")
    shown = set()
    for family in parsed(ran(2)).values():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        shown.add((name, family.type, ", ".join(f"`{label}`" for label in sorted(labels))))
    assert {(row[1], row[2], row[3].strip()) for row in ROW.finditer(document)} == shown


def test_nothing_is_left_in_the_registry_of_the_process():
    """A flow may serve metrics of its own."""
    before = {family.name for family in REGISTRY.collect()}
    exposition(ran())
    assert {family.name for family in REGISTRY.collect()} == before
    assert not any(name.startswith("engine_") for name in before)
