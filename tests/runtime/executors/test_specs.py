"""What a user names, and what he is told as the flow is built."""

from __future__ import annotations

import functools
import importlib.util
import pickle
import sys
from types import ModuleType
from typing import Any

import pytest

from engine.operators.tasks import (
    AsyncExecutor,
    Executor,
    InlineExecutor,
    ProcessExecutor,
    ThreadExecutor,
)
from engine.operators.tasks._executor import check, executor_of
from engine.operators.tasks._shipping import shipped
from tests.conformance.executor_functions import adouble, double
from tests.runtime.executors.task_functions import unlike


class Adder:
    """A function that is an object."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, other: int) -> int:
        return self.number + other

    def add(self, other: int) -> int:
        return self.number + other


class AsyncCalled:
    async def __call__(self, number: int) -> int:
        return number


@pytest.fixture
def no_cloudpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)


@pytest.mark.parametrize(
    ("name", "executor"),
    [
        ("inline", InlineExecutor()),
        ("async", AsyncExecutor()),
        ("thread", ThreadExecutor()),
        ("process", ProcessExecutor()),
    ],
)
def test_an_executor_has_a_name(name: str, executor: Any):
    """Its settings are the usual ones then."""
    assert executor_of(name) == executor
    assert executor_of(executor) is executor


@pytest.mark.parametrize(
    ("named", "error", "text"),
    [
        ("threads", ValueError, "'inline', 'async', 'thread', 'process'"),
        (ThreadExecutor, TypeError, "make an instance"),
        (4, TypeError, "not 4"),
    ],
)
def test_what_is_no_executor_is_refused(named: Any, error: type[Exception], text: str):
    """It says what there is."""
    with pytest.raises(error, match=text):
        executor_of(named)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ThreadExecutor(0), "threads must be at least 1, not 0"),
        (lambda: ThreadExecutor(2, abandoned=-1), "abandoned must be at least 0, not -1"),
        (lambda: ProcessExecutor(0), "processes must be at least 1, not 0"),
    ],
)
def test_sizes_must_make_sense(make: Any, text: str):
    """Nothing would ever run otherwise."""
    with pytest.raises(ValueError, match=text):
        make()
    with pytest.raises(TypeError, match="threads must be an int, not True"):
        ThreadExecutor(True)


@pytest.mark.parametrize("executor", [InlineExecutor(), ThreadExecutor(), ProcessExecutor()])
@pytest.mark.parametrize("fn", [adouble, functools.partial(adouble), AsyncCalled()])
def test_async_functions_need_the_event_loop(executor: Any, fn: Any):
    """Elsewhere nobody would await them."""
    with pytest.raises(TypeError, match=r"step 's'.*`async def`.*executor='async'"):
        check(executor, fn, "s")


def test_what_cannot_be_called_is_refused():
    """Whatever the executor."""
    fn: Any = 3
    with pytest.raises(TypeError, match="step 's': 3 can't be called"):
        check(AsyncExecutor(), fn, "s")


@pytest.mark.parametrize(
    "fn", [double, unlike, Adder(2), Adder(2).add, functools.partial(max, 3), len]
)
@pytest.mark.usefixtures("no_cloudpickle")
def test_what_has_a_name_in_a_module_goes_by_it(fn: Any):
    """And so do methods and objects of classes that have one."""
    check(ProcessExecutor(), fn, "s")
    data = shipped(fn, "s")
    assert len(data) < 300
    assert type(pickle.loads(data)) is type(fn)


@pytest.mark.usefixtures("no_cloudpickle")
def test_what_has_no_name_is_refused_without_cloudpickle():
    """As the flow is built, with the step, the function and what to do."""

    def inner(number: int) -> int:
        return number

    for fn in (inner, lambda number: number, functools.partial(inner), Adder(lambda: 1).add):
        with pytest.raises(TypeError, match=r"step 's': .* at the top of a module, or install"):
            check(ProcessExecutor(), fn, "s")


def test_what_was_typed_at_a_prompt_has_no_name(monkeypatch: pytest.MonkeyPatch):
    """Its `__main__` is nothing that another process could import."""
    prompt = ModuleType("__main__")
    exec("def typed(number):\n    return number\n", prompt.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", prompt)
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(TypeError, match="typed"):
        shipped(prompt.typed, "s")
    prompt.__file__ = "a_script.py"
    assert b"typed" in shipped(prompt.typed, "s")


@pytest.mark.skipif(not importlib.util.find_spec("cloudpickle"), reason="needs cloudpickle")
def test_cloudpickle_takes_the_code_where_there_is_no_name():
    """What it can't take is told too."""
    number = 3
    fn = pickle.loads(shipped(lambda other: number + other, "s"))
    assert fn(4) == 7
    lock = __import__("threading").Lock()
    with pytest.raises(TypeError, match=r"step 's'.*other processes: TypeError.*lock"):
        shipped(lambda _: lock, "s")


def test_an_executor_of_the_users_own_checks_for_itself():
    """By default it takes anything that can be called."""

    class Own(Executor):
        start: Any = None

    Own.__abstractmethods__ = frozenset()
    check(Own(), adouble, "s")  # type: ignore[abstract]
    assert isinstance(executor_of(Own()), Own)  # type: ignore[abstract]
