"""Import strings are taken apart as text: names, calls with literals, paths."""

from __future__ import annotations

import pytest

from engine._cli.import_strings import ImportString, parse_expression, parse_import_string
from engine.errors import ImportStringError


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("flows", ("flows", False, "")),
        ("shop.flows:orders", ("shop.flows", False, "orders")),
        ('flows:make("a:b", 1)', ("flows", False, 'make("a:b", 1)')),
        ('flows:make("a.py:b")', ("flows", False, 'make("a.py:b")')),
        ("flows.py", ("flows.py", True, "")),
        ("./flows.py:orders", ("./flows.py", True, "orders")),
        ("/data/a:b/flows.py:orders", ("/data/a:b/flows.py", True, "orders")),
        ("my-flows.py:make('x')", ("my-flows.py", True, "make('x')")),
        ("bin/flows", ("bin/flows", True, "")),
        ("flüsse:fluß", ("flüsse", False, "fluß")),
    ],
)
def test_modules_and_files_are_told_apart(text: str, parts: tuple[str, bool, str]):
    """A dotted name is a module, what has a slash or ends in .py a file, the rest an expression."""
    assert parse_import_string(text) == ImportString(*parts)


@pytest.mark.parametrize("text", ["", ":", "::", "a b", "flows:", "flows.py:", "flows: ", "1a:b"])
def test_what_names_nothing_is_refused(text: str):
    """Neither a module nor a file, or nothing behind the colon: the message shows the forms."""
    with pytest.raises(ImportStringError) as raised:
        parse_import_string(text)
    assert "module:flow" in raised.value.hint


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("flow", ("flow", None, {})),
        ("make()", ("make", [], {})),
        ("make('a', -1, 2.5, None, True)", ("make", ["a", -1, 2.5, None, True], {})),
        ("make(n=[1, {'a': (2,)}], b=b'x')", ("make", [], {"n": [1, {"a": (2,)}], "b": b"x"})),
    ],
)
def test_a_call_has_literals_for_arguments(text: str, parsed: object):
    """Texts, numbers, None, and lists, tuples, sets and dicts of them."""
    assert parse_expression(text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "make(x)",
        "make(open('f'))",
        "make(*[1])",
        "make(**{'a': 1})",
        "make(1 + x)",
        "make({[]: 1})",
        "make(n=__import__('os').system('true'))",
    ],
)
def test_nothing_in_a_call_is_evaluated(text: str):
    """What isn't a literal is refused, whatever it would give."""
    with pytest.raises(ImportStringError, match="must be literals"):
        parse_expression(text)


@pytest.mark.parametrize("text", ["a.b", "a[0]", "lambda: 1", "a(", "1", "a()()", "a b", "\0"])
def test_an_expression_is_a_name_or_the_call_of_one(text: str):
    """Everything else is refused."""
    with pytest.raises(ImportStringError, match="neither a name nor the call of one"):
        parse_expression(text)
