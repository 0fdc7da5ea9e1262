"""`docs/operators.md`: up to date, complete, and all of its examples run."""

from __future__ import annotations

import doctest
import importlib.util
import re
import types
from pathlib import Path

import pytest

import engine.operators as op

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "operators.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(>>> .*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def maker() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("make_operators", DOCS / "make_operators.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(maker: types.ModuleType) -> None:
    """After a change of a docstring the page must be written again."""
    assert maker.page() == PAGE, "run: python docs/make_operators.py"


def test_every_operator_is_in_the_page(maker: types.ModuleType) -> None:
    """All public operators and classes have an entry with their signature."""
    grouped = [name for names in maker.GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    no_entries = {"helpers", "Key", "KeyedStream", "JoinInsertMode", "JoinEmitMode"}
    no_entries |= {"RollingAggregate", "TableJoinMode"}
    assert {*grouped, *maker.CLASSES} | no_entries == set(op.__all__)
    for name in grouped:
        assert f"### `{name}`\n\n```python\nop.{name}(" in PAGE


def test_there_is_an_example_for_each() -> None:
    """Each operator's entry calls it in an example."""
    for name in re.findall(r"^### `(\w+)`\n\n```python\nop\.", PAGE, re.MULTILINE):
        assert any(f"op.{name}(" in example for example in EXAMPLES)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_run(number: int) -> None:
    """What stands in the page runs as it stands there, without anything imported before."""
    parsed = doctest.DocTestParser().get_doctest(EXAMPLES[number], {}, "operators.md", None, 0)
    assert doctest.DocTestRunner().run(parsed).failed == 0
