"""The option `--soak`: many times more seeds and rounds than a default run has time for."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the long recovery tests")


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether there is time for the long run of a test."""
    return bool(request.config.getoption("--soak"))
