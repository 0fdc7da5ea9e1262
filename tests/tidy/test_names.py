"""What is public, what says what it is, and that the names in the documents exist."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator

import pytest

from tests.tidy.tree import ROOT, PythonFile, all_files, python_files

ENGINE_FILES = python_files("engine/")
PUBLIC_FILES = [
    f for f in ENGINE_FILES if not any(part.startswith("_") for part in f.module.split("."))
]
PUBLIC = [pytest.param(f, id=f.module) for f in PUBLIC_FILES]
PACKAGES = [pytest.param(f, id=f.module) for f in PUBLIC_FILES if f.path.endswith("__init__.py")]
WITH_TEXT = [
    pytest.param(f, id=f.path) for f in python_files("engine/", "examples/", "benchmarks/")
]
TESTS = [
    pytest.param(f, id=f.path)
    for f in python_files("tests/")
    if f.path.rpartition("/")[2].startswith("test_")
]
ARCHITECTURE = ROOT / "ARCHITECTURE.md"


@pytest.mark.parametrize("file", PUBLIC)
def test_each_public_module_lists_what_it_has(file: PythonFile):
    """`__all__` names each thing once, and each is there. (Ruff sees to its order.)"""
    module = importlib.import_module(file.module)
    names = declared(file)
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize("file", PACKAGES)
def test_all_of_a_package_is_what_its_init_re_exports(file: PythonFile):
    """Nothing is imported into an `__init__` that isn't meant for users, and nothing forgotten."""
    assert set(declared(file)) == set(_brought_in(file))


@pytest.mark.parametrize("file", WITH_TEXT)
def test_a_module_says_what_it_is(file: PythonFile):
    """Each module begins with a docstring."""
    assert ast.get_docstring(file.tree)


@pytest.mark.parametrize("file", TESTS)
def test_a_test_says_in_a_line_what_it_shows(file: PythonFile):
    """Each test function begins with a docstring."""
    silent = [
        node.name
        for node in ast.walk(file.tree)
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_the_files_and_names_in_the_architecture_exist():
    """Each ``engine/x.py`` and ``engine/x.py:Name`` in backticks is there."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    mentions = re.findall(r"`(engine/[\w/]*(?:\.py)?)(?::([\w.]+))?`", text)
    assert mentions
    missing = [f"{path}:{name}" for path, name in mentions if not _exists(path, name)]
    assert missing == []


def declared(file: PythonFile) -> list[str]:
    """The names in a module's `__all__`, as they are written."""
    for node in file.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    pytest.fail(f"{file.path} has no __all__")


def _brought_in(file: PythonFile) -> Iterator[str]:
    for node in file.tree.body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def _exists(path: str, name: str) -> bool:
    if path.endswith("/"):
        return any(p.startswith(path) for p in all_files())
    if path not in all_files():
        return False
    [file] = python_files(path)
    body: list[ast.stmt] = file.tree.body
    for part in name.split(".") if name else ():
        found = next((node for node in body if part in _names_of(node)), None)
        if found is None:
            return False
        body = found.body if isinstance(found, ast.ClassDef) else []
    return True


def _names_of(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {ast.unparse(target) for target in node.targets}
    return {ast.unparse(node.target)} if isinstance(node, ast.AnnAssign) else set()
