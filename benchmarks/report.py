"""Turns results into tables (plain or Markdown) and into JSON with every single sample.

A table has a line for each figure of each workload: the contenders' medians, then the ratios that
the workload's layout asks for, each the median of the ratios within the rounds.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator
from importlib import metadata
from itertools import groupby
from typing import Any

from benchmarks.measure import NOT_INSTALLED, Options, Result, Series
from benchmarks.workloads import Layout, Metric

TEXT_COLUMNS = 2  # The first two columns are words and go left; the others are figures.
DISTRIBUTIONS = {"engine": "engine-dataflow", "bytewax": "bytewax"}
NOTHING = "-"


def machine_facts() -> dict[str, Any]:
    """What a reader must know of the machine to judge the figures, and nothing that names it."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(package) for name, package in DISTRIBUTIONS.items()},
    }


def to_json(results: list[Result], options: Options) -> str:
    """All samples, medians and problems, with the facts of the machine."""
    document = {
        "machine": machine_facts(),
        "repetitions": options.repetitions,
        "quick": options.quick,
        "results": [_result_as_dict(result) for result in results],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def to_text(results: list[Result]) -> str:
    """The tables in aligned columns, for a terminal."""
    return "\n".join(_aligned(rows, between="  ", outside="") for rows in _tables(results))


def to_markdown(results: list[Result], options: Options) -> str:
    """The tables for `docs/benchmarks.md`, with the facts that belong to them."""
    tables = []
    for rows in _tables(results):
        rows.insert(1, ["---" if at < TEXT_COLUMNS else "---:" for at in range(len(rows[0]))])
        tables.append(_aligned(rows, between=" | ", outside="|"))
    facts = machine_facts()
    bytewax = facts["packages"]["bytewax"] or NOT_INSTALLED
    note = (
        f"{facts['implementation']} {facts['python']}, {facts['system']} {facts['architecture']}, "
        f"{facts['cpus']} CPUs, Bytewax {bytewax}; medians of {options.repetitions} runs"
        f"{', small inputs' if options.quick else ''}."
    )
    return "\n".join([f"{note}\n", *tables])


def problems(results: list[Result]) -> list[str]:
    """What went wrong, one line each; a contender that is not installed is no problem."""
    return [
        f"{result.workload.name}, {one.contender}: {one.problem}"
        for result in results
        for one in result.series.values()
        if one.problem not in (None, NOT_INSTALLED)
    ]


def _result_as_dict(result: Result) -> dict[str, Any]:
    names = [metric.name for metric in result.workload.metrics]
    return {
        "workload": result.workload.name,
        "title": result.workload.title,
        "contenders": {
            one.contender: {
                "problem": one.problem,
                "medians": {name: one.median(name) for name in names} if one.samples else {},
                "samples": one.samples,
            }
            for one in result.series.values()
        },
    }


def _tables(results: list[Result]) -> Iterator[list[list[str]]]:
    """The rows of each table, its header first."""
    for layout, alike in groupby(results, key=lambda result: result.workload.layout):
        yield _rows(layout, alike)


def _rows(layout: Layout, results: Iterable[Result]) -> list[list[str]]:
    ratios = [f"{mine} / {theirs}" for mine, theirs in layout.ratios]
    header = ["work", "figure", *layout.columns, *ratios, "largest spread"]
    lines = [
        _row(result, metric, first=metric is result.workload.metrics[0])
        for result in results
        for metric in result.workload.metrics
    ]
    return [header, *lines]


def _row(result: Result, metric: Metric, *, first: bool) -> list[str]:
    series, layout = result.series, result.workload.layout
    sound = {name: one for name, one in series.items() if one.samples and not one.problem}
    spread = max((one.spread(metric.name) for one in sound.values()), default=None)
    return [
        result.workload.title if first else "",
        metric.unit,
        *(_figure(series.get(name), metric) for name in layout.columns),
        *(_ratio(sound.get(mine), sound.get(theirs), metric) for mine, theirs in layout.ratios),
        NOTHING if spread is None else f"±{spread:.0%}",
    ]


def _figure(series: Series | None, metric: Metric) -> str:
    if series is None:
        return NOTHING
    if series.problem is not None:
        return series.problem.partition(":")[0]
    return f"{series.median(metric.name) / metric.divisor:.{metric.digits}f}"


def _ratio(mine: Series | None, theirs: Series | None, metric: Metric) -> str:
    if mine is None or theirs is None:
        return NOTHING
    return f"{mine.ratio_to(theirs, metric.name):.2f}"


def _aligned(rows: list[list[str]], *, between: str, outside: str) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left, right = (f"{outside} ", f" {outside}") if outside else ("", "")
    lines = []
    for row in rows:
        cells = (
            cell.ljust(width) if at < TEXT_COLUMNS else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(f"{left}{between.join(cells)}{right}".rstrip())
    return "\n".join(lines) + "\n"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
