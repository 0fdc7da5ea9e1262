"""Records whose calls end the worker's own process: the job goes on without them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.processes import ended, start

RECORDS = 60

FLOW = f"""\
import asyncio, os, signal, time
from pathlib import Path
import engine.operators as op
from engine.connectors.files import FileSink
from engine.dataflow import Dataflow
from engine.operators.tasks import task
from engine.testing import TestingSource

HERE = Path(__file__).parent
LETHAL = {{int(n) for n in os.environ["LETHAL"].split()}}


def call(n):
    time.sleep(0.005)
    if n in LETHAL:
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(10)
    return n


async def call_async(n):
    await asyncio.sleep(0.005)
    return call(n)


flow = Dataflow("flow")
s = op.input("in", flow, TestingSource(range({RECORDS}), batch_size=3))
name = os.environ["EXECUTOR"]
out = task("call", s, call_async if name == "async" else call, executor=name, max_in_flight=8,
           on_error=os.environ["ON_ERROR"])
if os.environ["ON_ERROR"] == "fail":
    failed = op.map("failed", out.errors, lambda e: f"{{e.record}} {{type(e.exception).__name__}}")
    failed = op.map("failed_line", failed, lambda line: ("", line))
    op.output("failed_out", failed, FileSink(HERE / "failed.txt"))
op.output("out", op.map("line", out.ok, lambda n: ("", str(n))), FileSink(HERE / "out.txt"))
"""


def lines(path: Path) -> Counter[str]:
    """The lines of a file, if it is there."""
    return Counter(path.read_text(encoding="ascii").splitlines() if path.exists() else [])


@pytest.mark.parametrize("executor", ["thread", "async", "inline"])
def test_a_record_that_kills_its_worker_goes_to_errors(executor: str, tmp_path: Path):
    """Processes are replaced until it is known which record it is; all others come out once."""
    tmp_path.joinpath("flows.py").write_text(FLOW, encoding="utf-8")
    variables = {"EXECUTOR": executor, "LETHAL": "17", "ON_ERROR": "fail"}
    process = start(tmp_path, "-r", "store", "-s", "50ms", "-p", "2", **variables)
    said = ended(process)
    assert process.returncode == 0, said
    assert said.count("killed by SIGSEGV") == 3, said
    assert lines(tmp_path / "failed.txt") == {"17 WorkerProcessError": 1}
    assert lines(tmp_path / "out.txt") == {str(n): 1 for n in range(RECORDS) if n != 17}


def test_who_starts_the_job_again_comes_past_such_records_too(tmp_path: Path):
    """One process alone, started again whenever it has died, with two such records in flight."""
    tmp_path.joinpath("flows.py").write_text(FLOW, encoding="utf-8")
    variables = {"EXECUTOR": "thread", "LETHAL": "17 19", "ON_ERROR": "skip"}
    deaths = 0
    while True:
        process = start(tmp_path, "-r", "store", "-s", "10", **variables)
        said = ended(process)
        if process.returncode == 0:
            break
        deaths += 1
        assert deaths <= 4, said
    assert deaths == 4
    assert "skipped" in said
    assert lines(tmp_path / "out.txt") == {str(n): 1 for n in range(RECORDS) if n not in {17, 19}}


def test_a_job_that_was_mended_calls_the_record_again(tmp_path: Path):
    """A job that ends for its sake says why; the next start gives it another chance."""
    tmp_path.joinpath("flows.py").write_text(
        FLOW.replace("out.errors", "out.ok").replace('== "fail"', '== "never"'), encoding="utf-8"
    )
    variables = {"EXECUTOR": "thread", "LETHAL": "17", "ON_ERROR": "fail"}
    process = start(tmp_path, "-r", "store", "-s", "50ms", "-p", "2", **variables)
    said = ended(process)
    assert process.returncode == 1
    assert "the worker's process died 3 times while it made this call" in said, said
    process = start(tmp_path, "-r", "store", **{**variables, "LETHAL": ""})
    said = ended(process)
    assert process.returncode == 0, said
    assert lines(tmp_path / "out.txt") == {str(n): 1 for n in range(RECORDS)}
