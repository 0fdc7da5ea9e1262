"""What people install is the whole engine, and nothing but it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.tidy.tree import ROOT, all_files

SHIPPED = [path for path in all_files() if path.startswith("engine/")]
FLOW = """\
import engine.operators as op
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow
from engine.testing import TestingSource

flow = Dataflow("packed")
op.output("out", op.input("in", flow, TestingSource(["unpacked"])), StdOutSink())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The project's wheel, built of a copy, because building leaves traces in the tree."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for path in ("pyproject.toml", "README.md", "LICENSE", *SHIPPED):
        copy.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, copy / path)
    # With what is installed already, so that nothing is fetched.
    command = ["pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), "."]
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=copy,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = out.iterdir()
    return built


def test_the_wheel_holds_the_engine_and_its_types(wheel):
    """Every file below `engine` is in it, `py.typed` too, and no tests or examples."""
    names = ZipFile(wheel).namelist()
    assert sorted(name for name in names if ".dist-info/" not in name) == SHIPPED
    assert "engine/py.typed" in names
    assert [name for name in names if name.endswith("/licenses/LICENSE")]


def test_the_wheel_runs_a_flow_from_another_folder(wheel, tmp_path):
    """Without the project's folder, a flow runs by what is in the wheel alone."""
    tmp_path.joinpath("packed.py").write_text(FLOW)
    done = subprocess.run(
        # Isolated, so that only the wheel can give `engine`.
        [sys.executable, "-I", "-c", RUN, str(wheel), "packed.py"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("unpacked\n", "", 0)


RUN = """\
import sys

wheel, flow = sys.argv[1:]
sys.path.insert(0, wheel)
import engine.run

assert engine.__file__.startswith(wheel), engine.__file__
sys.exit(engine.run.main([flow]))
"""
