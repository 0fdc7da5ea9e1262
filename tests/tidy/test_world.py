"""Clocks, chance, files, sockets and threads are touched at the edges of the engine only.

What decides (the graph, the operators, the worker, the coordinator) gets them handed in, so that
the simulator can stand in for the world and a seed replays a run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.tidy.tree import PythonFile, imports_of, python_files

DECIDING = ("engine/dataflow/", "engine/operators/", "engine/recovery/", "engine/runtime/")
EDGES = {
    "engine/runtime/_ports.py": "binds the ports to this machine",
    "engine/recovery/store.py": "is the disk",
}

WORLDLY_MODULES = {
    "asyncio", "concurrent", "glob", "io", "multiprocessing", "os", "pathlib", "random",
    "secrets", "select", "selectors", "shutil", "signal", "socket", "ssl", "subprocess",
    "tempfile", "threading", "time", "uuid",
}  # fmt: skip
WORLDLY_BUILTINS = {"open", "print", "breakpoint"}
WORLDLY_METHODS = {"now", "utcnow", "today"}
"""Of `datetime` and `date`."""

EXCEPTIONS = {
    ("engine/operators/_inspect.py", "print"): "what `inspect` is for, and users hand in another",
    ("engine/operators/_enrich.py", "threading"): "a lock, which decides nothing",
}
"""What is allowed all the same, and why."""

FILES = [pytest.param(f, id=f.path) for f in python_files(*DECIDING) if f.path not in EDGES]


@pytest.mark.parametrize("file", FILES)
def test_what_decides_does_not_touch_the_world(file: PythonFile):
    """No clock, no chance, no file, no socket, no thread below the runtime's ports."""
    for line, what in touches(file):
        assert (file.path, what) in EXCEPTIONS, f"line {line} uses {what}"


@pytest.mark.parametrize(("path", "what"), EXCEPTIONS)
def test_an_exception_is_still_needed(path: str, what: str):
    """The list of exceptions has nothing that the code no longer does."""
    [file] = python_files(path)
    assert what in [found for _, found in touches(file)]


def touches(file: PythonFile) -> Iterator[tuple[int, str]]:
    """Line and name of everything in a file that reaches out to the world."""
    for imported in imports_of(file):
        top = imported.module.split(".")[0]
        if top in WORLDLY_MODULES and not imported.for_types_only:
            yield imported.line, top
    for node in ast.walk(file.tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in WORLDLY_BUILTINS:
            yield node.lineno, node.func.id
        elif isinstance(node.func, ast.Attribute) and node.func.attr in WORLDLY_METHODS:
            owner = ast.unparse(node.func.value)
            if owner.rpartition(".")[2] in {"datetime", "date"}:
                yield node.lineno, f"{owner}.{node.func.attr}"
