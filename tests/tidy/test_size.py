"""Small files, small functions, nothing left for later.

(How many parameters and branches a function may have is Ruff's to say.)
"""

from __future__ import annotations

import ast
import re

import pytest

from tests.tidy.tree import PythonFile, python_files

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70

Function = ast.FunctionDef | ast.AsyncFunctionDef

ENGINE_FILES = [pytest.param(f, id=f.path) for f in python_files("engine/")]
ALL_FILES = [pytest.param(f, id=f.path) for f in python_files("")]


@pytest.mark.parametrize("file", ENGINE_FILES)
def test_a_file_holds_one_concept(file: PythonFile):
    """No file is too long to be read in one go."""
    assert file.text.count("\n") <= FILE_LINES_MAX


@pytest.mark.parametrize("file", ENGINE_FILES)
def test_a_function_fits_on_a_page(file: PythonFile):
    """No function is longer than a page, its docstring not counted."""
    long = [f"{f.name}: {_lines(f)}" for f in _functions(file) if _lines(f) > FUNCTION_LINES_MAX]
    assert long == []


@pytest.mark.parametrize("file", ALL_FILES)
def test_nothing_is_left_for_later(file: PythonFile):
    """No note in the code says that something is still to be done."""
    later = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
    assert [n for n, line in enumerate(file.text.splitlines(), 1) if later.search(line)] == []


@pytest.mark.parametrize("file", ENGINE_FILES)
def test_annotations_are_not_evaluated(file: PythonFile):
    """Each module with code in it begins with ``from __future__ import annotations``."""
    code = [n for n in file.tree.body[1:] if not isinstance(n, ast.Import | ast.ImportFrom)]
    if any(not isinstance(node, ast.Assign) for node in code):
        assert "from __future__ import annotations" in file.text


def _functions(file: PythonFile) -> list[Function]:
    return [n for n in ast.walk(file.tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def _lines(function: Function) -> int:
    first = function.body[1] if _has_docstring(function) else function.body[0]
    return (function.end_lineno or 0) - first.lineno + 1


def _has_docstring(function: Function) -> bool:
    return len(function.body) > 1 and ast.get_docstring(function) is not None
