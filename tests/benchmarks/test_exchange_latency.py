"""Latencies between processes are told apart by when their records were due."""

from __future__ import annotations

import math

from benchmarks.workloads.exchange_latency import figures_of

MS, S = 1_000_000, 1_000_000_000


def told(taken, epochs=()):
    """What a process writes, of pairs of seconds and milliseconds."""
    return {"taken": [(round(due * S), took * MS) for due, took in taken], "epochs": list(epochs)}


def test_records_near_a_barrier_are_shown_apart():
    """An epoch in either process counts, from just before it until some time after it."""
    first = told([(100, 1), (102.985, 2), (102.995, 30), (103.08, 40), (103.095, 2)])
    figures = figures_of([first, told([(103.5, 3)], [103 * S])])
    assert figures["barrier_p50_ms"] == figures["barrier_p99_ms"] == 40
    assert figures["rest_p99_ms"] == 3
    assert (figures["p50_ms"], figures["p99_ms"]) == (3, 40)


def test_the_first_second_does_not_count():
    """Then processes start."""
    figures = figures_of([told([(100, 50), (100.9, 60), (101.1, 2)]), told([(100.5, 70)])])
    assert figures["p50_ms"] == figures["p99_ms"] == 2


def test_without_records_there_is_no_latency():
    """A run may be too short for one, as quick ones are."""
    assert all(math.isnan(figure) for figure in figures_of([told([]), told([])]).values())
