"""Keyed operators over runs with different numbers of workers, as if it had been one run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine.recovery import RecoveryConfig
from engine.runtime import RunOptions, run_flow
from tests.operators.flows import by_key, emitted, flow_of, pause
from tests.operators.timed import at

WORKERS = (1, 3, 2)
KEYS = [f"k{i}" for i in range(12)]
ITEMS = [(KEYS[i * 7 % 12], i) for i in range(90)]
"""Read a third in each run."""
HOUR = timedelta(hours=1)


def event_time(value: int) -> Any:
    return at(value)


def with_rows(s: Any) -> Any:
    rows = op.filter_map_value("rows", s, lambda n: n if n % 3 == 0 else None)
    return op.table_join("join", op.filter_value("values", s, lambda n: n % 3 > 0), rows, "left")


STEPS: dict[str, Callable[..., Any]] = {
    "dedupe": lambda s: op.dedupe("s", s, lambda record: record[0], HOUR),
    "rolling-values": lambda s: op.rolling("s", s, 4, "sum"),
    "rolling-time": lambda s: op.rolling(
        "s", s, timedelta(seconds=50), tuple, event_time=event_time
    ),
    "table_join": with_rows,
}


def run(
    build: Callable[..., Any], items: list[Any], workers: int, store: Path, **options: Any
) -> list[Any]:
    """One run over the items that are new since the last one."""
    flow, out = flow_of(build, items, batch_size=4)
    recovery = RecoveryConfig(store, create=True)
    run_flow(flow, RunOptions(workers=workers, recovery=recovery, **options))
    return out


@pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "composition"])
@pytest.mark.parametrize("name", STEPS)
def test_state_goes_with_its_key(name: str, kernels: bool, tmp_path: Path) -> None:
    """What comes out per key is what one run on one worker gives."""
    found: list[Any] = []
    for number, workers in enumerate(WORKERS, 1):
        seen = ITEMS[: number * 30]
        found += run(STEPS[name], seen, workers, tmp_path / "store", kernels=kernels)
    assert by_key(found) == by_key(emitted(STEPS[name], ITEMS, batch_size=4, kernels=kernels))


@pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "composition"])
def test_silence_is_noticed_by_other_workers(kernels: bool, tmp_path: Path) -> None:
    """Keys that fell silent while nothing ran are told by those that own them then."""
    build, store = (lambda s: op.timeout("s", s, timedelta(seconds=1))), tmp_path / "store"
    items = [(key, 1) for key in KEYS]
    assert run(build, items, 1, store, kernels=kernels) == []
    later = [*items, pause(1.5), ("other", 1)]
    assert sorted(run(build, later, 3, store, kernels=kernels)) == sorted(items)
