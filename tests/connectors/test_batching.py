"""The helpers that make batches of iterables, functions and async iterables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from queue import Queue
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.connectors import batch, batch_async, batch_getter, batch_getter_ex

NOW = timedelta(0)
"""A timeout that lets the event loop take what is there and come back."""


@given(st.lists(st.integers()), st.integers(1, 5))
def test_batch_cuts(items: list[int], batch_size: int) -> None:
    """Full batches up to the last, no empty one, nothing lost or moved."""
    batches = list(batch(items, batch_size))
    assert [item for taken in batches for item in taken] == items
    assert all(len(taken) == batch_size for taken in batches[:-1])
    assert all(batches)


@pytest.mark.parametrize(
    "make",
    [
        lambda: batch([], 0),
        lambda: batch_getter(list, 0),
        lambda: batch_getter_ex(list, -1),
        lambda: batch_async(_give(), NOW, 0),
    ],
)
def test_empty_batches_are_refused(make: Callable[[], object]) -> None:
    """A batch size below 1 is an error at once, not at the first `next`."""
    with pytest.raises(ValueError, match="at least 1"):
        make()


async def _give(*items: Any) -> AsyncIterator[Any]:
    """Gives items; awaits a future among them; raises an exception among them."""
    for item in items:
        if isinstance(item, Exception):
            raise item
        yield (await item if isinstance(item, asyncio.Future) else item)


def test_getter_stops_at_its_sentinel() -> None:
    """A batch is full, or up to the sentinel, or up to the end."""
    answers = iter(["a", "b", "-", "-", "c"])
    batches = batch_getter(lambda: next(answers), 2, yield_on="-")
    assert list(batches) == [["a", "b"], [], [], ["c"]]


def test_getter_compares_like_python() -> None:
    """The sentinel is found by equality, None only by identity."""

    class EqualToAll:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    odd = EqualToAll()
    answers: Any = iter([odd, None, 0.0])
    batches = batch_getter(lambda: next(answers), 9)
    assert next(batches)[0] is odd
    answers = iter([1, 0.0, 2])
    assert list(batch_getter(lambda: next(answers), 9, yield_on=0)) == [[1], [2]]


def test_getter_ends_for_ever() -> None:
    """After the getter's `StopIteration` there are no more batches."""
    answers = iter(["a"])
    batches = batch_getter(lambda: next(answers), 1)
    assert list(batches) == [["a"]]
    assert list(batches) == []


def test_getter_ex_stops_at_its_exception() -> None:
    """By default a queue is read as far as it is filled."""
    queue: Queue[int] = Queue()
    batches = batch_getter_ex(queue.get_nowait, 2)
    assert next(batches) == []
    for number in range(3):
        queue.put(number)
    assert [next(batches), next(batches), next(batches)] == [[0, 1], [2], []]


def test_getter_ex_takes_another_exception() -> None:
    """Any exception can say that there is nothing; `StopIteration` ends, others pass through."""
    answers: list[Exception | str] = ["a", KeyError(), "b", StopIteration()]

    def get() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert list(batch_getter_ex(get, 5, KeyError)) == [["a"], ["b"]]
    answers += [OSError("gone")]
    with pytest.raises(OSError, match="gone"):
        next(batch_getter_ex(get, 5, KeyError))


def test_async_takes_full_batches() -> None:
    """What is ready at once comes in full batches, up to the end."""
    assert list(batch_async(_give(0, 1, 2, 3, 4), NOW, 2)) == [[0, 1], [2, 3], [4]]
    assert list(batch_async(_give(0, 1), NOW, 2)) == [[0, 1]]
    assert list(batch_async(_give(), NOW, 2)) == []


def test_async_timeout_loses_nothing() -> None:
    """A timeout gives what is there; what was being waited for comes in a later batch."""
    loop = asyncio.new_event_loop()
    late: asyncio.Future[str] = loop.create_future()
    batches = batch_async(_give("a", late, "c", "d", "e"), NOW, 3, loop)
    assert next(batches) == ["a"]
    assert next(batches) == []
    late.set_result("b")
    assert list(batches) == [["b", "c", "d"], ["e"]]
    assert not loop.is_closed()
    loop.close()


def test_async_error_comes_after_the_items_before_it() -> None:
    """An error of the iterable is raised as it is, once the items before it were given."""
    batches = batch_async(_give("a", ValueError("bad")), NOW, 3)
    assert next(batches) == ["a"]
    with pytest.raises(ValueError, match="bad"):
        next(batches)
    assert list(batches) == []


def test_async_cleans_up() -> None:
    """Dropped half way, it cancels what it waits for and runs the iterable's `finally`."""
    log: list[str] = []

    async def forever() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.get_running_loop().create_future()
        finally:
            log.append("closed")

    waiting: Any = batch_async(forever(), NOW, 5)
    assert next(waiting) == [1]
    waiting.close()
    assert log == ["closed"]
    between_batches: Any = batch_async(forever(), NOW, 1)
    assert next(between_batches) == [1]
    between_batches.close()
    assert log == ["closed", "closed"]
