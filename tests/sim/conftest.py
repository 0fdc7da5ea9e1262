"""Prints, after the tests, which seed has caught which mutant by what, and what a soak came to."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        str(line)
        for report in terminalreporter.stats.get("passed", [])
        for name, line in getattr(report, "user_properties", [])
        if name == "summary"
    ]
    if lines:
        terminalreporter.section("simulations: mutant, its seed, what didn't hold")
        terminalreporter.write_line("\n".join(lines))
