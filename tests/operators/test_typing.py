"""Type checkers infer the type of every stream in `typing_cases`, and refuse what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).with_name("typing_cases.py")

CHECKERS = {
    "mypy": ["mypy", "--strict", "--follow-imports=silent"],
    "pyright": ["pyright"],
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_types_are_inferred(checker: str) -> None:
    """Neither checker has anything to say about the file."""
    run = subprocess.run(
        [sys.executable, "-m", *CHECKERS[checker], str(CASES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_operator_has_a_case() -> None:
    """No operator is left out of the file."""
    import inspect  # noqa: PLC0415

    import engine.operators as op  # noqa: PLC0415

    text = CASES.read_text(encoding="utf-8")
    operators = [name for name in op.__all__ if inspect.isfunction(getattr(op, name))]
    assert [name for name in operators if f"op.{name}(" not in text] == []
