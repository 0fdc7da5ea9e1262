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
    "engine/runtime/_ports.py": "binds clock and waiting to this machine",
    "engine/runtime/_machine.py": "asks how large this machine is",
    "engine/runtime/_crew.py": "runs workers in threads",
    "engine/runtime/_mesh.py": "binds a worker's network to sockets",
    "engine/runtime/_processes.py": "spawns processes and listens to them",
    "engine/runtime/_handler_watch.py": "looks at a worker's thread, on one of its own",
    "engine/runtime/_member.py": "is such a process",
    "engine/runtime/_cluster.py": "joins processes of several hosts",
    "engine/runtime/_meeting.py": "connects their workers",
    "engine/runtime/_door.py": "listens and connects",
    "engine/runtime/_discovery.py": "asks sources on threads of its own",
    "engine/runtime/_wire.py": "sends messages over sockets and TLS",
    "engine/runtime/_web.py": "listens, and answers on threads",
    "engine/runtime/_actor_endpoint.py": "answers on some of them at a time",
    "engine/runtime/executors/_executors.py": "shares a time limit out",
    "engine/runtime/executors/_threads.py": "runs tasks on threads",
    "engine/runtime/executors/_loop.py": "runs an event loop, and watches it",
    "engine/runtime/executors/_daemons.py": "runs what tasks hand to other threads",
    "engine/runtime/executors/_async.py": "runs tasks on that loop",
    "engine/runtime/executors/_pool.py": "talks to processes",
    "engine/runtime/executors/_process.py": "starts and ends them",
    "engine/runtime/executors/_child.py": "is such a process",
    "engine/operators/tasks/_callers.py": "has calls wait on threads",
    "engine/runtime/executors/_async_calls.py": "has them wait on an event loop",
    "engine/operators/tasks/_objects.py": "keeps large results in shared memory",
    "engine/runtime/executors/_remote.py": "knows signals by name",
    "engine/recovery/_disk.py": "binds the disk to this machine",
    "engine/recovery/_init.py": "makes a store by hand, with an id of its own",
    "engine/recovery/store.py": "binds the table to RocksDB",
    "engine/recovery/_fakes.py": "draws by a seed what a crash leaves of a disk in memory",
}

WORLDLY_MODULES = {
    "asyncio", "concurrent", "glob", "io", "multiprocessing", "os", "random", "secrets", "select",
    "selectors", "shutil", "signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time",
}  # fmt: skip
WORLDLY_FUNCTIONS = {"open", "print", "breakpoint", "uuid1", "uuid4"}
WORLDLY_METHODS = {
    "iterdir", "mkdir", "read_bytes", "read_text", "touch", "unlink", "uuid1", "uuid4",
    "write_bytes", "write_text",
}  # fmt: skip
"""Of paths mostly: to hand a path on is nobody's harm."""
PORTS = {"disk"}
"""What has such methods and may be asked."""
CLOCK_METHODS = {"now", "utcnow", "today"}
"""Of `datetime` and `date`."""

EXCEPTIONS = {
    ("engine/operators/_inspect.py", "print"): "what `inspect` is for, and users hand in another",
    ("engine/operators/_enrich.py", "threading"): "a lock, which decides nothing",
    ("engine/runtime/_listing.py", "threading"): "a lock, which decides nothing",
    ("engine/runtime/_questions.py", "threading"): "a lock, which decides nothing",
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
        if isinstance(node, ast.Call) and (name := _worldly(node.func)):
            yield node.lineno, name


def _worldly(function: ast.expr) -> str | None:
    """The name of a function that reaches out, or None."""
    if isinstance(function, ast.Name):
        return function.id if function.id in WORLDLY_FUNCTIONS else None
    if not isinstance(function, ast.Attribute):
        return None
    owner = ast.unparse(function.value).rpartition(".")[2].lstrip("_")
    if function.attr in WORLDLY_METHODS:
        return None if owner in PORTS else function.attr
    reads_clock = function.attr in CLOCK_METHODS and owner in {"datetime", "date"}
    return f"{owner}.{function.attr}" if reads_clock else None
