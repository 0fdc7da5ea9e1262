"""Type checkers infer the type of every stream in the files of cases, and refuse what is wrong."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
from engine.connectors.kafka import operators as kop

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).with_name("typing_cases.py")
KAFKA_CASES = ROOT / "tests/connectors/kafka_typing_cases.py"

CHECKERS = {
    "mypy": ["mypy", "--strict", "--follow-imports=silent"],
    "pyright": ["pyright", "--pythonpath", sys.executable],
}


@pytest.mark.parametrize("cases", [CASES, KAFKA_CASES], ids=["operators", "kafka"])
@pytest.mark.parametrize("checker", CHECKERS)
def test_types_are_inferred(checker: str, cases: Path) -> None:
    """Neither checker has anything to say about the file."""
    run = subprocess.run(
        [sys.executable, "-m", *CHECKERS[checker], str(cases)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(("module", "cases"), [(op, CASES), (kop, KAFKA_CASES)])
def test_every_operator_has_a_case(module: Any, cases: Path) -> None:
    """No operator is left out of the file."""
    text = cases.read_text(encoding="utf-8")
    operators = [name for name in module.__all__ if inspect.isfunction(getattr(module, name))]
    assert operators
    assert [name for name in operators if f"op.{name}(" not in text] == []
