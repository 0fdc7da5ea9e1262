"""The workloads, each in a file of its own, in the order of the table."""

from __future__ import annotations

from benchmarks.workloads import (
    actors,
    actors_beside,
    barrier,
    cpu_map,
    exchange,
    exchange_latency,
    executors,
    interval_join,
    join,
    kafka,
    kafka_latency,
    larger_than_memory,
    latency,
    memory,
    metrics_cost,
    recovery_cost,
    resume,
    running_mean,
    sessions,
    sliding,
    stateless,
    tasks,
    tasks_beside,
    tumbling,
    window_latency,
    window_memory,
    words,
)
from benchmarks.workloads._base import Layout, Metric, Outcome, Workload

__all__ = ["WORKLOADS", "Layout", "Metric", "Outcome", "Workload"]

_MODULES = (
    stateless,
    words,
    running_mean,
    tasks,
    tasks_beside,
    actors,
    actors_beside,
    tumbling,
    sliding,
    sessions,
    join,
    interval_join,
    latency,
    window_latency,
    memory,
    window_memory,
    recovery_cost,
    barrier,
    resume,
    larger_than_memory,
    cpu_map,
    executors,
    exchange,
    metrics_cost,
    exchange_latency,
    kafka,
    kafka_latency,
)

WORKLOADS: dict[str, Workload] = {
    workload.name: workload for module in _MODULES for workload in module.WORKLOADS
}
