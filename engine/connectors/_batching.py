"""Helpers that turn what a library offers into batches for `next_batch`.

Written for authors of sources: wrap an iterable, a function or an async iterable once when the
partition is built, and give `next(...)` of it in `next_batch`. Its `StopIteration` is the end of
the input.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from datetime import timedelta
from itertools import islice
from queue import Empty
from typing import TYPE_CHECKING

from engine.connectors._source import X

if TYPE_CHECKING:
    # Importing asyncio takes longer than all of the engine's connectors together.
    import asyncio


def batch(ib: Iterable[X], batch_size: int) -> Iterator[list[X]]:
    """Cut an iterable into lists of `batch_size` items; the last one may be shorter.

    For iterables that always have a next item at once: `next` blocks as long as they do.

    Raises:
        ValueError: `batch_size` is below 1.

    >>> list(batch(range(5), 2))
    [[0, 1], [2, 3], [4]]
    """
    _check_batch_size(batch_size)
    items = iter(ib)
    return iter(lambda: list(islice(items, batch_size)), [])


def batch_getter(
    getter: Callable[[], X], batch_size: int, yield_on: X | None = None
) -> Iterator[list[X]]:
    """Call `getter` up to `batch_size` times for each batch.

    Args:
        getter: Gives the next item, or `yield_on` when there is none right now. `StopIteration`
            ends the batches.
        batch_size: Most items in a batch.
        yield_on: What `getter` gives when there is nothing: the batch so far is given out, which
            may be empty.

    Raises:
        ValueError: `batch_size` is below 1.

    >>> answers = iter(["a", "b", "c", None, None, "d"])
    >>> list(batch_getter(lambda: next(answers), 2))
    [['a', 'b'], ['c'], [], ['d']]
    """
    _check_batch_size(batch_size)

    def nothing(item: X) -> bool:
        # Not `==` for None: an array or a data frame compares item by item.
        return item is yield_on or (yield_on is not None and item == yield_on)

    def batches() -> Iterator[list[X]]:
        while True:
            taken: list[X] = []
            try:
                while len(taken) < batch_size and not nothing(item := getter()):
                    taken.append(item)
            except StopIteration:
                if taken:
                    yield taken
                return
            yield taken

    return batches()


def batch_getter_ex(
    getter: Callable[[], X], batch_size: int, yield_ex: type[Exception] = Empty
) -> Iterator[list[X]]:
    """Call `getter` up to `batch_size` times for each batch; an exception says there is no more.

    Args:
        getter: Gives the next item, or raises `yield_ex` when there is none right now.
            `StopIteration` ends the batches.
        batch_size: Most items in a batch.
        yield_ex: What `getter` raises when there is nothing: the batch so far is given out, which
            may be empty.

    Raises:
        ValueError: `batch_size` is below 1.

    >>> import queue
    >>> waiting = queue.Queue()
    >>> for number in range(3):
    ...     waiting.put(number)
    >>> batches = batch_getter_ex(waiting.get_nowait, 2)
    >>> next(batches), next(batches), next(batches)
    ([0, 1], [2], [])
    """
    _check_batch_size(batch_size)

    def batches() -> Iterator[list[X]]:
        while True:
            taken: list[X] = []
            try:
                while len(taken) < batch_size:
                    taken.append(getter())
            except yield_ex:
                pass
            except StopIteration:
                if taken:
                    yield taken
                return
            yield taken

    return batches()


def batch_async(
    aib: AsyncIterable[X],
    timeout: timedelta,
    batch_size: int,
    loop: asyncio.AbstractEventLoop | None = None,
) -> Iterator[list[X]]:
    """Take batches from an async iterable, such as a WebSocket client or an async generator.

    The event loop runs only during `next`, which comes back with a full batch, or after `timeout`
    with what there is, which may be nothing. An item that was being waited for is not lost by the
    timeout: the next call waits for it further. A worker waits meanwhile, so keep `timeout` at a
    few milliseconds.

    Args:
        aib: What to iterate.
        timeout: Longest time for one batch.
        batch_size: Most items in a batch.
        loop: Event loop to run on. By default one of its own, closed at the end.

    Raises:
        ValueError: `batch_size` is below 1.

    >>> from datetime import timedelta
    >>> async def numbers():
    ...     for number in range(3):
    ...         yield number
    >>> list(batch_async(numbers(), timedelta(seconds=5), 2))
    [[0, 1], [2]]
    """
    _check_batch_size(batch_size)
    return _run_async(aib, timeout.total_seconds(), batch_size, loop)


def _run_async(
    aib: AsyncIterable[X],
    timeout_s: float,
    batch_size: int,
    given_loop: asyncio.AbstractEventLoop | None,
) -> Iterator[list[X]]:
    import asyncio  # noqa: PLC0415 (see the top of the file)

    loop = given_loop or asyncio.new_event_loop()
    items = aiter(aib)
    taken: list[X] = []
    filling: asyncio.Task[bool] | None = None
    try:
        while True:
            filling = filling or loop.create_task(_fill(items, taken, batch_size))
            loop.run_until_complete(asyncio.wait({filling}, timeout=timeout_s))
            batch_now = taken[:]
            taken.clear()
            if batch_now or not filling.done():
                yield batch_now
            if filling.done():
                # Only now, so that the items before an error or the end were given out first.
                if not filling.result():
                    return
                filling = None
    finally:
        _stop_async(loop, filling, close=given_loop is None)


async def _fill(items: AsyncIterator[X], taken: list[X], batch_size: int) -> bool:
    """Fill up `taken`, which the caller may empty meanwhile; False at the end of the items."""
    while len(taken) < batch_size:
        try:
            taken.append(await anext(items))
        except StopAsyncIteration:
            return False
    return True


def _stop_async(
    loop: asyncio.AbstractEventLoop, filling: asyncio.Task[bool] | None, *, close: bool
) -> None:
    import asyncio  # noqa: PLC0415 (see the top of the file)

    if loop.is_closed():
        return
    if filling is not None:
        filling.cancel()
        # Waiting as a gather takes note of the task's error, which asyncio would else complain of.
        loop.run_until_complete(asyncio.gather(filling, return_exceptions=True))
    if close:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        msg = f"batch_size must be at least 1; got {batch_size!r}"
        raise ValueError(msg)
