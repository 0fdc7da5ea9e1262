"""Whose code a traceback's frames are, and which of them a user wants to see.

Called by `engine._cli.report` only, after something went wrong.
"""

from __future__ import annotations

import functools
import linecache
import sysconfig
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path, PurePath
from types import CodeType, TracebackType
from typing import Any, cast

import engine
from engine.runtime._failure import frames_of
from engine.runtime._fusion import FUSED_FILE_PREFIX

_ENGINE_DIR = str(Path(engine.__file__).parent) + "/"
_SOURCE_LENGTH_MAX = 160


class Owner(Enum):
    """Who wrote the code of a frame."""

    USER = auto()
    LIBRARY = auto()
    PYTHON = auto()
    ENGINE = auto()


@dataclass(frozen=True, slots=True)
class Place:
    """A line in somebody's code."""

    file: str
    line: int
    function: str
    source: str

    def __str__(self) -> str:
        """File and line as editors take them, relative to here where it is below."""
        inside = "" if self.function == "<module>" else f", in {self.function}"
        return f"{shown_path(self.file)}:{self.line}{inside}"


def owner_of(filename: str) -> Owner:
    """Whose code a file holds."""
    if filename.startswith((_ENGINE_DIR, FUSED_FILE_PREFIX)):
        return Owner.ENGINE
    if {"site-packages", "dist-packages"} & set(PurePath(filename).parts):
        return Owner.LIBRARY
    # What is in angle brackets was generated, as by `dataclass`: there is no line to show.
    if filename.startswith(("<", *_python_dirs())):
        return Owner.PYTHON
    return Owner.USER


def user_places(traceback: TracebackType | None, at_most: int) -> list[Place]:
    """The innermost frames of the user, innermost first; those of libraries if there are none."""
    frames = [(f.f_code, line) for f, line in frames_of(traceback)]
    for owner in (Owner.USER, Owner.LIBRARY):
        theirs = [pair for pair in frames if owner_of(pair[0].co_filename) is owner]
        if theirs:
            return [_place(code, line) for code, line in reversed(theirs[-at_most:])]
    return []


def raised_by_engine(traceback: TracebackType | None) -> bool:
    """Whether the innermost frame is the engine's own."""
    owners = [owner_of(frame.f_code.co_filename) for frame, _ in frames_of(traceback)]
    return owners[-1:] == [Owner.ENGINE]


def definition_place(function: Any) -> Place | None:
    """Where a user's function begins, if it was written in Python and isn't the engine's."""
    while isinstance(function, functools.partial):
        function = function.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    # Of a function itself, of a method, or of what an object of a class is called by.
    by_class = getattr(cast("Any", type(function)), "__call__", None)  # noqa: B004
    code = getattr(function, "__code__", getattr(by_class, "__code__", None))
    if not isinstance(code, CodeType) or owner_of(code.co_filename) is not Owner.USER:
        return None
    return _place(code, code.co_firstlineno)


def shown_path(filename: str) -> str:
    """A path as short as it can be typed here."""
    try:
        return str(Path(filename).relative_to(Path.cwd()))
    except (ValueError, OSError):  # Elsewhere, or there is no current directory any more.
        return filename


def _place(code: CodeType, line: int) -> Place:
    source = linecache.getline(code.co_filename, line).strip()
    if len(source) > _SOURCE_LENGTH_MAX:
        source = f"{source[:_SOURCE_LENGTH_MAX]}..."
    return Place(code.co_filename, line, code.co_qualname, source)


@functools.cache
def _python_dirs() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({f"{paths[name]}/" for name in ("stdlib", "platstdlib")})
