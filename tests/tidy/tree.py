"""The project's files, and its Python files parsed, for the tests in this folder to look through.

Every file of the tree counts but what `.gitignore` names, so that the tests need no git.
"""

from __future__ import annotations

import ast
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class PythonFile:
    """One parsed module."""

    path: str
    """From the top of the project, with forward slashes."""
    text: str
    tree: ast.Module

    @property
    def module(self) -> str:
        """Its dotted name: ``engine.operators`` for ``engine/operators/__init__.py``."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        """The dotted name that relative imports in it start from."""
        return self.module if self.path.endswith("__init__.py") else self.module.rpartition(".")[0]


@dataclass(frozen=True)
class Import:
    """One name that a file imports."""

    module: str
    """What stands after `from` or `import`."""
    name: str
    """What is taken from it, or nothing after a plain `import`."""
    line: int
    for_types_only: bool
    """Whether it stands below ``if TYPE_CHECKING``."""


@functools.cache
def all_files() -> tuple[str, ...]:
    """The paths of all files of the project."""
    return tuple(sorted(_walk()))


def _walk() -> Iterator[str]:
    ignored = _ignored_names()
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if not _is_ignored(f"{name}/", ignored)]
        for name in files:
            if not _is_ignored(name, ignored):
                yield Path(folder, name).relative_to(ROOT).as_posix()


def _ignored_names() -> list[str]:
    lines = ROOT.joinpath(".gitignore").read_text().splitlines()
    # In a linked work tree `.git` is a file.
    return [".git", ".git/", *(line for line in lines if line and not line.startswith("#"))]


def _is_ignored(name: str, ignored: list[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in ignored)


@functools.cache
def python_files(*under: str) -> tuple[PythonFile, ...]:
    """All Python files below these folders, or these files themselves."""
    paths = [p for p in all_files() if p.endswith(".py") and p.startswith(under)]
    assert paths, f"nothing is left below {under}"
    return tuple(_parsed(path) for path in paths)


@functools.cache
def _parsed(path: str) -> PythonFile:
    text = ROOT.joinpath(path).read_text(encoding="utf-8")
    return PythonFile(path, text, ast.parse(text, path))


def imports_of(file: PythonFile) -> Iterator[Import]:
    """Everything that a file imports, wherever in the file that stands."""
    for_types = {id(node) for node in _below_type_checking(file.tree)}
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, "", node.lineno, id(node) in for_types)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = _absolute(file, node)
                yield Import(module, alias.name, node.lineno, id(node) in for_types)


def _absolute(file: PythonFile, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = file.package.split(".")
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _below_type_checking(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.body:
                yield from ast.walk(statement)


def engine_module(imported: Import) -> str | None:
    """Which module of ours is imported, or None: ``from engine import errors`` is engine.errors."""
    if imported.module.split(".")[0] != "engine":
        return None
    with_name = f"{imported.module}.{imported.name}"
    return with_name if imported.name and is_module(with_name) else imported.module


def is_module(dotted: str) -> bool:
    """Whether the project has a module of that name."""
    path = dotted.replace(".", "/")
    return any(candidate in all_files() for candidate in (f"{path}.py", f"{path}/__init__.py"))
