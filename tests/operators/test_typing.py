"""Type checkers infer the type of every stream in the files of cases, and refuse what is wrong."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import engine.operators as op
import engine.operators.windowing as win
from engine.connectors.kafka import operators as kop

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).with_name("typing_cases.py")
WINDOW_CASES = CASES.parent / "windowing/typing_cases.py"
CLOCKED_CASES = CASES.parent / "windowing/clocked_typing_cases.py"
KAFKA_CASES = ROOT / "tests/connectors/kafka_typing_cases.py"

CHECKERS = {
    "mypy": ["mypy", "--strict", "--follow-imports=silent"],
    "pyright": ["pyright", "--pythonpath", sys.executable],
}


@pytest.mark.parametrize(
    "cases",
    [CASES, WINDOW_CASES, CLOCKED_CASES, KAFKA_CASES],
    ids=["operators", "windowing", "clocked", "kafka"],
)
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


@pytest.mark.parametrize(
    ("module", "name", "cases"),
    [
        (op, "op", [CASES]),
        (win, "win", [WINDOW_CASES, CLOCKED_CASES]),
        (kop, "kop", [KAFKA_CASES]),
    ],
)
def test_every_operator_has_a_case(module: Any, name: str, cases: list[Path]) -> None:
    """No operator is left out of the files."""
    text = "".join(file.read_text(encoding="utf-8") for file in cases)
    operators = [each for each in module.__all__ if inspect.isfunction(getattr(module, each))]
    assert operators
    assert [each for each in operators if f"{name}.{each}(" not in text] == []
