"""The fixture that the tests of all command lines have in common."""

from __future__ import annotations

from tests.cli.conftest import project

__all__ = ["project"]
