"""The examples in the docstrings of `engine.dataflow` and `engine.operators` run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import engine.dataflow
import engine.operators
import engine.operators.windowing

MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (engine.dataflow, engine.operators, engine.operators.windowing)
    for module in pkgutil.iter_modules(package.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    """Each example gives what its docstring says."""
    assert doctest.testmod(importlib.import_module(name)).failed == 0


PUBLIC = [n for n in engine.operators.__all__ if callable(getattr(engine.operators, n))]


@pytest.mark.parametrize(
    "name", [n for n in PUBLIC if inspect.isfunction(getattr(engine.operators, n))]
)
def test_every_operator_has_an_example(name: str) -> None:
    """What it does, its arguments and an example that runs a flow stand in its docstring."""
    doc = inspect.getdoc(getattr(engine.operators, name)) or ""
    assert "Args:" in doc
    assert ">>> run_main(flow)" in doc
    assert f"op.{name}(" in doc
    for parameter in inspect.signature(getattr(engine.operators, name)).parameters.values():
        star = "*" if parameter.kind is inspect.Parameter.VAR_POSITIONAL else ""
        assert parameter.name.startswith("_") or f"    {star}{parameter.name}: " in doc
