"""The workloads, each in a file of its own, in the order of the table."""

from __future__ import annotations

from benchmarks.workloads import join, latency, memory, running_mean, stateless, words
from benchmarks.workloads._base import Metric, Outcome, Workload

__all__ = ["WORKLOADS", "Metric", "Outcome", "Workload"]

_MODULES = (stateless, words, running_mean, join, latency, memory)

WORKLOADS: dict[str, Workload] = {
    workload.name: workload for module in _MODULES for workload in module.WORKLOADS
}
