"""What all tests share: their options, and how hypothesis behaves here.

- `--soak N`: N seeds of the simulator, and other tests with many times more rounds than a default
  run has time for;
- `--sim-base N`: the simulator's seeds begin here. It is drawn anew for each run, and printed.
"""

from __future__ import annotations

import os
import secrets
import sys
from typing import Any

import pytest
from hypothesis import settings

# A shared machine pauses now and then, so a slow example is no failure.
settings.register_profile("people", deadline=None)
# The same examples in each run: a change that didn't break anything must not be stopped by luck.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "people")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", type=int, default=0, metavar="N", help="run N seeds, and long tests")
    parser.addoption("--sim-base", type=int, metavar="N", help="first seed of the simulator")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.sim_base is None:
        config.option.sim_base = secrets.randbelow(1_000_000) * 1_000


def pytest_report_header(config: pytest.Config) -> str:
    return f"simulator: --sim-base {config.option.sim_base}"


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """Say what a process of pytest-xdist died of.

    faulthandler is silent where a thread of a library blocks all signals and crashes, as those of
    librdkafka do: only the parent can tell that from a `kill -9`.
    """
    if error:
        sys.stderr.write(f"{node.gateway.id} ended with {node.gateway._io.popen.wait(10)}\n")


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> int:
    """How many seeds there is time for; 0 in a run that is to be short."""
    seeds: int = request.config.option.soak
    return seeds


@pytest.fixture
def sim_base(request: pytest.FixtureRequest) -> int:
    """Where the simulator's seeds begin."""
    base: int = request.config.option.sim_base
    return base
