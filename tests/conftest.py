"""What all tests share: how hypothesis behaves here, and the option for long runs."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# A shared machine pauses now and then, so a slow example is no failure.
settings.register_profile("people", deadline=None)
# The same examples in each run: a change that didn't break anything must not be stopped by luck.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "people")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak", action="store_true", help="many times more seeds and rounds, for hours"
    )


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether there is time for the long run of a test."""
    return bool(request.config.getoption("--soak"))
