"""Import strings, as command lines take them: pure text, nothing is imported here.

    module                     the flow of a module of the current directory or an installed one
    module:name                the flow of that name
    module:make("a", 1, b=2)   what a function gives for these literals
    path/to/file.py[:...]      the same for a file, whose folder can be imported from

Left out, the name is ``flow``, or whatever name the module's only flow has.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

from engine.errors import ImportStringError

FORMS = 'give `module:flow`, `module:make_flow("literal", 1)` or `path/to/file.py:flow`'
_MODULE_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_FILE_AND_REST = re.compile(r"(?P<file>.+?\.py)(?:(?P<colon>:)(?P<rest>.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ImportString:
    """An import string taken apart."""

    module: str
    """Dotted name, or path of a file."""
    is_file: bool
    expression: str
    """What to take from the module, or nothing for its default."""


def parse_import_string(text: str) -> ImportString:
    """Take an import string apart, importing nothing.

    Raises:
        ImportStringError: It has none of the forms that this module's text lists.

    >>> parse_import_string("examples.wordcount:flow")
    ImportString(module='examples.wordcount', is_file=False, expression='flow')
    >>> parse_import_string("flows/a.py").is_file
    True
    """
    name, colon, rest = text.partition(":")
    is_file = "/" in name or name.endswith(".py") or _MODULE_NAME.fullmatch(name) is None
    if is_file and (match := _FILE_AND_REST.fullmatch(text)):
        # A path may have colons of its own, so the first one isn't always the right one.
        name, colon, rest = match["file"], match["colon"] or "", match["rest"] or ""
    elif is_file and "/" not in name:
        msg = f"{text!r} names neither a module nor a file"
        raise ImportStringError(msg, hint=FORMS)
    if colon and not rest.strip():
        msg = f"nothing stands behind the colon of {text!r}"
        raise ImportStringError(msg, hint=FORMS)
    return ImportString(name, is_file, rest.strip())


def parse_expression(text: str) -> tuple[str, list[Any] | None, dict[str, Any]]:
    """A name, or the call of one with literals: name, arguments (None if no call), keywords.

    Raises:
        ImportStringError: It is anything else.

    >>> parse_expression('make("a", 1, b=[2])')
    ('make', ['a', 1], {'b': [2]})
    >>> parse_expression("flow")
    ('flow', None, {})
    """
    if text.isidentifier():
        return text, None, {}
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        msg = f"{text!r} is neither a name nor the call of one"
        raise ImportStringError(msg, hint=FORMS)
    literals = _literals_of(tree)
    if literals is None:
        msg = f"the arguments in {text!r} must be literals: texts, numbers, lists and the like"
        raise ImportStringError(msg)
    return tree.func.id, *literals


def _literals_of(call: ast.Call) -> tuple[list[Any], dict[str, Any]] | None:
    """The arguments of a call, or None if one of them is something to evaluate."""
    kwargs: dict[str, Any] = {}
    try:
        for keyword in call.keywords:
            if keyword.arg is None:  # ``**more``
                return None
            kwargs[keyword.arg] = ast.literal_eval(keyword.value)
        return [ast.literal_eval(arg) for arg in call.args], kwargs
    except (ValueError, TypeError, RecursionError):
        return None
