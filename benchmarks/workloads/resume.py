"""How soon the first records come out of a run that goes on from a store, by what the store holds.

Each measurement makes its store first, off the clock, in runs of the same flow. Either an epoch
with all keys and then one with a few, all of it brought into the table by a savepoint: that is what
a store is most of the time (`engine-1k`, `-100k`, `-1m`). Or four epochs with all keys, 93 MB, that
are in the log alone, as after a crash of a busy run at the worst moment (`-1m-log`): the engine
begins to apply what waits at 32 MB, hurries at 64 MB, and may have that much applied and not
flushed.

Then a process is started by `python -m engine.run`, without a store for `engine` itself. A batch of
1,000 keys is all of its input. Times are from the start of the process, and from the moment at
which the flow is built and `engine.run` begins to run it, to the arrival of the records at the
sink. That the states were there is checked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import resuming
from benchmarks.contenders import BARE_UDF, load_engine
from benchmarks.feeds import Batch
from benchmarks.workloads._base import Layout, Metric, Outcome

TIMEOUT_S = 120.0
TOP = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Stored:
    """What a store holds before the resumption: the keys, in relation to the workload's size."""

    key_divisor: int
    epochs: int = 1
    in_table: bool = True

    @property
    def count(self) -> int:
        """How often the keys that are asked for have come."""
        return self.epochs + self.in_table


STORES = {
    "engine-1k": Stored(1000),
    "engine-100k": Stored(10),
    "engine-1m": Stored(1),
    "engine-1m-log": Stored(1, epochs=4, in_table=False),
}


@dataclass(frozen=True, slots=True)
class Resume:
    """Starting from stores of several sizes; `records` is the number of keys of the largest."""

    name: str
    title: str
    records: int
    records_quick: int

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("from_process_ms", "ms, from process start", digits=0),
        Metric("from_run_ms", "ms, from start of run", digits=0),
    )
    layout: ClassVar[Layout] = Layout(
        (BARE_UDF, "engine", *STORES),
        (
            ("engine-1k", "engine"),
            ("engine-1m", "engine"),
            ("engine-1m", "engine-1k"),
            ("engine-1m-log", "engine-1k"),
        ),
    )

    @property
    def contenders(self) -> tuple[str, ...]:
        return self.layout.columns

    def run(self, contender: str, records: int, *, check: bool) -> Outcome:
        stored = STORES.get(contender)
        keys = max(resuming.ASKED, records // (stored.key_divisor if stored else 1))
        if contender == BARE_UDF:
            began_s, told = _timed(["benchmarks.resuming", str(keys)])
            return _outcome(began_s, told, 1, check=check)
        runner = ["engine.run", f"benchmarks.resuming:resumed({keys})"]
        if stored is None:
            began_s, told = _timed(runner)
            return _outcome(began_s, told, 1, check=check)
        with tempfile.TemporaryDirectory(prefix="resume-") as folder:
            store = str(Path(folder, "store"))
            _fill(store, stored, keys)
            began_s, told = _timed([*runner, "-r", store])
        return _outcome(began_s, told, stored.count + 1, check=check)


def _fill(store: str, stored: Stored, keys: int) -> None:
    _run(store, [resuming.readings(range(keys))] * stored.epochs)
    if stored.in_table:
        # The log keeps its last epoch; this one is small, as of a flow that goes on all the time.
        _run(store, [resuming.asked(keys)])
        _python(["engine.recovery", "savepoint", store, f"{store}-savepoints"])


def _run(store: str, batches: Sequence[Batch]) -> None:
    """Run the flow to the end of its input, each batch an epoch."""
    engine = load_engine("engine")
    config = engine.recovery.RecoveryConfig(store, create=True)
    # So few and large batches leave hardly any time to apply what is committed.
    engine.testing.run_main(
        resuming.flow_of(batches), epoch_interval=timedelta(0), recovery_config=config
    )


def _timed(arguments: Sequence[str]) -> tuple[float, dict[str, Any]]:
    """Run a module; gives when its process was started, and what it printed."""
    began_s = time.monotonic()
    told = _python(arguments).splitlines()
    return began_s, json.loads(told[0])


def _python(arguments: Sequence[str]) -> str:
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(
        command, cwd=TOP, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        msg = f"{arguments[0]} failed: {done.stderr.strip()}"
        raise RuntimeError(msg)
    return done.stdout


def _outcome(began_s: float, told: dict[str, Any], count: int, *, check: bool) -> Outcome:
    counts = told["counts"]
    if set(counts) != {count}:
        msg = f"keys were counted {min(counts)} to {max(counts)} times, not {count} times"
        raise RuntimeError(msg)
    figures = {
        "from_process_ms": (told["out_s"] - began_s) * 1e3,
        "from_run_ms": (told["out_s"] - told["run_s"]) * 1e3,
    }
    # The counts differ between stores, as they should; that they are right is checked above.
    return Outcome(figures, len(counts), len(counts) if check else None)


WORKLOADS = (
    Resume(
        name="resume",
        title="Resume from a store of 1,000 to 1,000,000 keys",
        records=1_000_000,
        records_quick=50_000,
    ),
)
