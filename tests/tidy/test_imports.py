"""Imports point one way only, and each outside library has one place."""

from __future__ import annotations

import sys
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.tidy.tree import PythonFile, engine_module, imports_of, python_files

LEAVES = {
    "engine",
    "engine._stamps",
    "engine._version",
    "engine.errors",
    "engine.clock",
    "engine.keys",
}
PURE = {"engine.dataflow"}
LOGIC = {"engine.operators", "engine.connectors", "engine.inputs", "engine.outputs"}
BELOW_RUNTIME = {*PURE, *LOGIC, "engine.recovery"}
STARTED_BY_PEOPLE = {
    "engine.run",
    "engine.visualize",
    "engine.dlq",
    "engine.recovery.__main__",
    "engine.testing.__main__",
    "engine.__main__",
    "engine._cli",
    "engine._visualize",
}

MAY_IMPORT = {
    "engine": {"engine._version"},
    "engine._version": set(),
    "engine._stamps": set(),
    "engine.errors": set(),
    "engine.clock": set(),
    "engine.keys": {"engine.errors"},
    "engine.dataflow": LEAVES,
    "engine.operators": LEAVES | PURE,
    "engine.connectors": LEAVES | PURE,
    # Operators that are made for one connector stand on both.
    "engine.connectors.kafka.operators": LEAVES | PURE | {"engine.connectors", "engine.operators"},
    # Two modules of names for those who come from Bytewax.
    "engine.inputs": {"engine.connectors"},
    "engine.outputs": {"engine.connectors"},
    "engine.recovery": LEAVES,
    "engine.runtime": LEAVES | BELOW_RUNTIME,
    "engine.testing": LEAVES | BELOW_RUNTIME | {"engine.runtime"},
    **dict.fromkeys(
        STARTED_BY_PEOPLE, LEAVES | BELOW_RUNTIME | STARTED_BY_PEOPLE | {"engine.runtime"}
    ),
}
"""What each part may import besides itself."""

MAY_NAME_IN_TYPES = {
    # What `input` and `output` take; at run time they need nothing of it.
    "engine.operators": {"engine.connectors"},
}
"""What a part may import besides that for type checkers only."""

HOMES = {
    "rocksdict": ("engine/recovery/store.py",),
    "confluent_kafka": ("engine/connectors/kafka",),
    "msgspec": ("engine/connectors/kafka/_serde_",),
    "fastavro": ("engine/connectors/kafka/_serde_",),
    "msgpack": ("engine/recovery/", "engine/runtime/", "engine/connectors/kafka/_rows.py"),
    "prometheus_client": ("engine/runtime/",),
}
"""The only places that may import a library that isn't Python's own."""

TYPING_ONLY = {"typing_extensions"}
"""Type checkers know them even where they aren't installed."""

ENGINE_FILES = [pytest.param(f, id=f.path) for f in python_files("engine/")]
OUTSIDE_FILES = [pytest.param(f, id=f.path) for f in python_files("examples/", "benchmarks/")]


def part_of(module: str) -> str:
    """The part of the engine that a module belongs to: ``engine.operators`` and the like."""
    if module in STARTED_BY_PEOPLE:
        return module
    names = module.split(".")
    longer = [".".join(names[:n]) for n in range(len(names), 2, -1)]
    return next((part for part in longer if part in MAY_IMPORT), ".".join(names[:2]))


@pytest.mark.parametrize("file", ENGINE_FILES)
def test_a_part_imports_only_what_lies_below_it(file: PythonFile):
    """`dataflow` knows nothing of ours, only what people start knows the runtime."""
    part = part_of(file.module)
    assert part in MAY_IMPORT, "say above what this new part may import"
    for imported in imports_of(file):
        if (module := engine_module(imported)) is None:
            continue
        allowed = MAY_IMPORT[part] | {part}
        if imported.for_types_only:
            allowed |= MAY_NAME_IN_TYPES.get(part, set())
        assert part_of(module) in allowed, f"line {imported.line}: {part} may not import {module}"


@pytest.mark.parametrize("file", ENGINE_FILES)
def test_an_outside_library_is_imported_at_its_home_only(file: PythonFile):
    """Everything else in the engine is Python's own standard library."""
    for imported in imports_of(file):
        top = imported.module.split(".")[0]
        if top == "engine" or top in sys.stdlib_module_names:
            continue
        if imported.for_types_only and top in TYPING_ONLY:
            continue
        assert file.path.startswith(HOMES.get(top, ())), f"line {imported.line} imports {top}"


def test_no_modules_import_each_other_in_a_circle():
    """There is an order in which all modules of the engine can be read."""
    graph = {
        file.module: {
            module
            for imported in imports_of(file)
            if (module := engine_module(imported)) is not None and module != file.module
        }
        for file in python_files("engine/")
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as ex:
        pytest.fail(" -> ".join(ex.args[1]))


@pytest.mark.parametrize("file", OUTSIDE_FILES)
def test_examples_and_benchmarks_use_public_names_only(file: PythonFile):
    """What is shown to users is what users may use."""
    for imported in imports_of(file):
        if (module := engine_module(imported)) is not None:
            names = [*module.split("."), imported.name]
            assert not [n for n in names if n.startswith("_")], f"line {imported.line}"
