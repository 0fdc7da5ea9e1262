"""What the simulator's tests tell at their end: how much has happened, and which mutants died."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.sim.models import told
from tests.sim.mutant import Catch, Mutant
from tests.sim.mutants_table import lines

_catches: list[tuple[Mutant, Catch]] = []
_counts: dict[str, Counter[str]] = {}


@pytest.fixture
def catches() -> list[tuple[Mutant, Catch]]:
    """Mutants that were caught, to be told."""
    return _catches


@pytest.fixture
def counts() -> dict[str, Counter[str]]:
    """What has happened in each model, to be told."""
    return _counts


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _counts:
        terminalreporter.section("simulated")
        for model, counted in _counts.items():
            terminalreporter.write_line(f"{model}: {told(counted)}")
    if _catches:
        terminalreporter.section("mutants")
        for line in lines(_catches):
            terminalreporter.write_line(line)
