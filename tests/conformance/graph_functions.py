"""Functions with subtasks, which the graph suite has every executor run; processes import them.

Each is there twice: plain, and as `async def` with an ``a`` before its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any, NoReturn

from engine.operators.tasks import Resources, SubtaskCancelledError, TaskContext, TaskFuture
from tests.conformance.executor_functions import OddError, adouble, double, note


def add(left: int, right: int) -> int:
    return left + right


def total(numbers: list[int]) -> int:
    return sum(numbers)


def total_of(by_name: dict[str, int], pair: tuple[int, int]) -> int:
    return sum(by_name.values()) + sum(pair)


def fail(text: str) -> NoReturn:
    raise OddError(text)


def hold(begun: Path, until: Path) -> None:
    note(begun, os.getpid())
    while not until.exists():
        time.sleep(0.002)


def fan_out(count: int, ctx: TaskContext) -> int:
    return sum(ctx.gather(*[ctx.submit(double, number) for number in range(count)]))


def hand_on(ctx: TaskContext) -> int:
    one, two = ctx.submit(double, 1), ctx.submit(double, number=2)
    three = ctx.submit(add, one, right=two)
    four = ctx.submit(total, [one, two, 5])
    return ctx.submit(total_of, {"a": three, "b": 1}, (four, 0)).result()


def chain(length: int, ctx: TaskContext) -> int:
    future: TaskFuture[int] = ctx.submit(double, 0)
    for _ in range(length):
        future = ctx.submit(add, future, 1)
    return future.result()


def nest(depth: int, ctx: TaskContext) -> int:
    if depth == 0:
        return 1
    return sum(ctx.gather(*[ctx.submit(nest, depth - 1) for _ in range(2)]))


def fail_once(ctx: TaskContext) -> int:
    return sum(ctx.gather(ctx.submit(double, 1), ctx.submit(fail, "so"), ctx.submit(double, 2)))


def fail_below(ctx: TaskContext) -> int:
    return ctx.submit(fail_once).result()


def catch(ctx: TaskContext) -> list[Any]:
    futures = [ctx.submit(double, 1), ctx.submit(fail, "so")]
    return [repr(found) for found in ctx.gather(*futures, return_exceptions=True)]


def fail_unseen(ctx: TaskContext) -> str:
    ctx.submit(fail, "nobody asks")
    return "fine"


def fail_by_need(ctx: TaskContext) -> int:
    return ctx.submit(add, ctx.submit(fail, "first"), 1).result()


def leave_running(path: Path, ctx: TaskContext) -> str:
    for number in range(20):
        ctx.submit(note, path, number)
    return "done"


def give_up_rest(begun: Path, ctx: TaskContext) -> str:
    failing = ctx.submit(fail, "so")
    queued = [ctx.submit(note, begun, number) for number in range(2_000)]
    with contextlib.suppress(OddError):
        ctx.gather(failing, *queued)
    try:
        queued[-1].result()
    except SubtaskCancelledError as ex:
        return str(ex)
    return "it has run"


def say_who(ctx: TaskContext) -> list[str]:
    below = ctx.gather(ctx.submit(who), ctx.submit(who))
    return [ctx.task_id, *below]


def who(ctx: TaskContext) -> str:
    return f"{ctx.task_id} {ctx.idempotency_key} {ctx.attempt}"


def gather_nothing(ctx: TaskContext) -> list[Any]:
    return list(ctx.gather())


def gather_twice(ctx: TaskContext) -> list[int]:
    future = ctx.submit(double, 3)
    return [*ctx.gather(future, future), future.result()]


def gather_numbers(ctx: TaskContext) -> Any:
    return ctx.gather(1)  # type: ignore[type-var] # what it is told about


def call_nothing(ctx: TaskContext) -> Any:
    return ctx.submit(3)  # type: ignore[call-overload] # what it is told about


def give_context(ctx: TaskContext) -> Any:
    return ctx.submit(who, ctx=ctx).result()


def wrong_resources(ctx: TaskContext) -> Any:
    return ctx.submit(double, 1, resources="gpu")  # type: ignore[call-overload] # what it is told


def too_deep(ctx: TaskContext) -> Any:
    return ctx.submit(too_deep).result()


def large(size: int) -> bytes:
    return bytes(size)


def length(data: bytes, beside: list[bytes]) -> int:
    return len(data) + sum(map(len, beside))


def share(size: int, ctx: TaskContext) -> list[int]:
    data = ctx.submit(large, size)
    lengths = ctx.gather(*[ctx.submit(length, data, [data]) for _ in range(5)])
    return [*lengths, len(data.result())]


def die_at(odd: int) -> int:
    if odd % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return odd


def die_below(ctx: TaskContext) -> Any:
    return [repr(ctx.gather(ctx.submit(die_at, n), return_exceptions=True)[0]) for n in (2, 3)]


def demand(ctx: TaskContext) -> int:
    return ctx.submit(double, 2, resources=Resources(cpu=1)).result()


async def ademand(ctx: TaskContext) -> int:
    return await ctx.submit(adouble, 2, resources=Resources(cpu=1))


async def aadd(left: int, right: int) -> int:
    return left + right


async def atotal(numbers: list[int]) -> int:
    return sum(numbers)


async def atotal_of(by_name: dict[str, int], pair: tuple[int, int]) -> int:
    return sum(by_name.values()) + sum(pair)


async def afail(text: str) -> NoReturn:
    raise OddError(text)


async def anote(path: Path, what: object) -> None:
    note(path, what)


async def afan_out(count: int, ctx: TaskContext) -> int:
    return sum(await ctx.gather(*[ctx.submit(adouble, number) for number in range(count)]))


async def ahand_on(ctx: TaskContext) -> int:
    one, two = ctx.submit(adouble, 1), ctx.submit(adouble, number=2)
    three = ctx.submit(aadd, one, right=two)
    four = ctx.submit(atotal, [one, two, 5])
    return await ctx.submit(atotal_of, {"a": three, "b": 1}, (four, 0))


async def achain(length: int, ctx: TaskContext) -> int:
    future: TaskFuture[int] = ctx.submit(adouble, 0)
    for _ in range(length):
        future = ctx.submit(aadd, future, 1)
    return await future


async def anest(depth: int, ctx: TaskContext) -> int:
    if depth == 0:
        return 1
    left, right = ctx.submit(anest, depth - 1), ctx.submit(anest, depth - 1)
    return sum(await asyncio.gather(_awaited(left), _awaited(right)))


async def _awaited(future: TaskFuture[int]) -> int:
    return await future


async def afail_once(ctx: TaskContext) -> int:
    futures = ctx.submit(adouble, 1), ctx.submit(afail, "so"), ctx.submit(adouble, 2)
    return sum(await ctx.gather(*futures))


async def afail_below(ctx: TaskContext) -> int:
    return await ctx.submit(afail_once)


async def acatch(ctx: TaskContext) -> list[Any]:
    futures = [ctx.submit(adouble, 1), ctx.submit(afail, "so")]
    return [repr(found) for found in await ctx.gather(*futures, return_exceptions=True)]


async def afail_unseen(ctx: TaskContext) -> str:
    ctx.submit(afail, "nobody asks")
    return "fine"


async def afail_by_need(ctx: TaskContext) -> int:
    return await ctx.submit(aadd, ctx.submit(afail, "first"), 1)


async def aleave_running(path: Path, ctx: TaskContext) -> str:
    for number in range(20):
        ctx.submit(anote, path, number)
    return "done"


async def agive_up_rest(begun: Path, ctx: TaskContext) -> str:
    failing = ctx.submit(afail, "so")
    queued = [ctx.submit(anote, begun, number) for number in range(2_000)]
    with contextlib.suppress(OddError):
        await ctx.gather(failing, *queued)
    try:
        await queued[-1]
    except SubtaskCancelledError as ex:
        return str(ex)
    return "it has run"


async def asay_who(ctx: TaskContext) -> list[str]:
    below = await ctx.gather(ctx.submit(awho), ctx.submit(awho))
    return [ctx.task_id, *below]


async def awho(ctx: TaskContext) -> str:
    return who(ctx)


async def agather_nothing(ctx: TaskContext) -> list[Any]:
    return list(await ctx.gather())


async def agather_twice(ctx: TaskContext) -> list[int]:
    future = ctx.submit(adouble, 3)
    return [*await ctx.gather(future, future), await future]


async def agather_numbers(ctx: TaskContext) -> Any:
    return await ctx.gather(1)  # type: ignore[type-var] # what it is told about


async def acall_nothing(ctx: TaskContext) -> Any:
    return ctx.submit(3)  # type: ignore[call-overload] # what it is told about


async def agive_context(ctx: TaskContext) -> Any:
    return await ctx.submit(awho, ctx=ctx)


async def awrong_resources(ctx: TaskContext) -> Any:
    return ctx.submit(adouble, 1, resources="gpu")  # type: ignore[call-overload] # what it is told


async def atoo_deep(ctx: TaskContext) -> Any:
    return await ctx.submit(atoo_deep)


async def alarge(size: int) -> bytes:
    return bytes(size)


async def alength(data: bytes, beside: list[bytes]) -> int:
    return length(data, beside)


async def ashare(size: int, ctx: TaskContext) -> list[int]:
    data = ctx.submit(alarge, size)
    lengths = await ctx.gather(*[ctx.submit(alength, data, [data]) for _ in range(5)])
    return [*lengths, len(await data)]
