"""What type checkers make of flows. Checked by mypy and pyright in `test_typing`, never run.

`assert_type` fails where a checker infers something else; an ignore comment that is not needed is
an error too, so the lines that have one show what is refused.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false
# ruff: noqa: PGH003 - the codes differ between checkers

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeGuard, assert_type

import engine.operators as op
from engine.connectors import DynamicSink, DynamicSource, FixedPartitionedSink, Sink, Source
from engine.dataflow import Dataflow, KeyedStream, Stream, operator
from engine.operators.actors import Actor, Context, Ref, handles
from engine.operators.helpers import map_dict_value
from engine.operators.tasks import Batching, TaskContext, TaskError
from engine.testing import TestingSink, TestingSource

if TYPE_CHECKING:
    from typing_extensions import TypeIs


@dataclass
class Order:
    user: str
    amount: float


@dataclass
class Refund(Order):
    reason: str


def is_refund(order: Order) -> TypeIs[Refund]:
    return isinstance(order, Refund)


def looks_like_refund(order: Order) -> TypeGuard[Refund]:
    return isinstance(order, Refund)


def ends(flow: Dataflow, source: Source[int], dynamic: DynamicSource[str]) -> None:
    assert_type(op.input("a", flow, source), Stream[int])
    assert_type(op.input("b", flow, dynamic), Stream[str])
    assert_type(op.input("c", flow, TestingSource([1, 2])), Stream[int])
    op.input("d", flow, [1, 2])  # type: ignore


def sinks(
    s: Stream[int],
    keyed: KeyedStream[str],
    whole: DynamicSink[int],
    by_key: FixedPartitionedSink[str, Any],
    anything: Sink[object],
) -> None:
    op.output("a", s, whole)
    op.output("b", keyed, by_key)
    op.output("c", s, anything)
    op.output("d", s, TestingSink([]))
    op.output("e", keyed, whole)  # type: ignore
    op.output("f", s, by_key)  # type: ignore


def stateless(s: Stream[Order]) -> None:
    amounts = op.map("amount", s, lambda order: order.amount)
    assert_type(amounts, Stream[float])
    assert_type(op.map("text", s, repr), Stream[str])
    assert_type(op.flat_map("letters", s, lambda order: list(order.user)), Stream[str])
    assert_type(op.flat_map_batch("size", s, lambda batch: [len(batch)]), Stream[int])
    assert_type(op.flatten("flat", op.map("lists", s, lambda x: [x])), Stream[Order])
    assert_type(op.filter("large", s, lambda order: order.amount > 1), Stream[Order])
    assert_type(op.filter("refunds", s, is_refund), Stream[Refund])
    assert_type(op.filter("maybe_refunds", s, looks_like_refund), Stream[Refund])
    assert_type(op.inspect("look", s), Stream[Order])
    assert_type(op.inspect_debug("debug", s), Stream[Order])
    assert_type(op.redistribute("spread", s), Stream[Order])
    assert_type(op.map("user", s, lambda o: o.user).on_error("skip"), Stream[str])
    s.on_error("ignore")  # type: ignore
    assert_type(op.dead_letters("dead", s.flow()), Stream[op.DeadLetter])
    Dataflow("strict", on_error="ignore")  # type: ignore
    op.raises("never", s)
    op.map("wrong", s, lambda order: order.nothing)  # type: ignore


def optional(s: Stream[Order], names: dict[str, int]) -> None:
    numbers = op.filter_map("n", op.map("user", s, lambda order: order.user), names.get)
    assert_type(numbers, Stream[int])


def shapes(s: Stream[Order], numbers: Stream[int], texts: Stream[str]) -> None:
    halves = op.branch("half", s, lambda order: order.amount > 1)
    assert_type(halves.trues, Stream[Order])
    assert_type(halves.falses, Stream[Order])
    assert_type(op.branch("is", s, is_refund).trues, Stream[Refund])
    assert_type(op.branch("guard", s, looks_like_refund).trues, Stream[Refund])
    assert_type(op.branch("guard2", s, looks_like_refund).falses, Stream[Order])
    assert_type(op.merge("one", numbers), Stream[int])
    assert_type(op.merge("two", numbers, texts), Stream[int | str])
    assert_type(op.merge("three", numbers, texts, s), Stream[int | str | Order])
    assert_type(op.merge("many", *[numbers, numbers]), Stream[int])


def keys(s: Stream[Order]) -> None:
    keyed = op.key_on("user", s, lambda order: order.user)
    assert_type(keyed, Stream[tuple[str, Order]])
    assert_type(keyed, KeyedStream[Order])
    assert_type(op.key_rm("unkey", keyed), Stream[Order])
    by_number = op.key_on("number", s, lambda order: int(order.amount))
    assert_type(by_number, Stream[tuple[int, Order]])
    by_both = op.key_on("both", s, lambda order: (order.user, int(order.amount)))
    assert_type(by_both, Stream[tuple[tuple[str, int], Order]])
    op.key_on("wrong", s, lambda order: order.amount)  # type: ignore
    op.key_rm("no_keys", s)  # type: ignore


def values(s: KeyedStream[Order], by_number: Stream[tuple[int, Order]]) -> None:
    assert_type(op.map_value("m", s, lambda order: order.amount), KeyedStream[float])
    assert_type(op.map_value("n", by_number, lambda x: x.user), Stream[tuple[int, str]])
    assert_type(op.flat_map_value("f", s, lambda order: [order.user]), KeyedStream[str])
    assert_type(op.filter_value("g", s, lambda order: order.amount > 1), KeyedStream[Order])
    assert_type(op.filter_value("h", s, is_refund), KeyedStream[Refund])
    assert_type(op.filter_map_value("i", s, lambda x: x.user or None), KeyedStream[str])


def enriched(s: Stream[Order], table: dict[str, int]) -> None:
    def look_up(cache: op.TTLCache[str, int], order: Order) -> tuple[Order, int]:
        return order, cache.get(order.user)

    out = op.enrich_cached("e", s, table.__getitem__, look_up, timedelta(minutes=1))
    assert_type(out, Stream[tuple[Order, int]])


class Total(op.StatefulLogic[Order, float, float]):
    def __init__(self, resume: float | None) -> None:
        self.total = resume or 0.0

    def on_item(self, value: Order) -> tuple[list[float], bool]:
        self.total += value.amount
        return [self.total], self.RETAIN

    def snapshot(self) -> float:
        return self.total


class Count(op.StatefulBatchLogic[Order, int, int]):
    def __init__(self, resume: int | None) -> None:
        self.count = resume or 0

    def on_batch(self, values: list[Order]) -> tuple[list[int], bool]:
        self.count += len(values)
        return [self.count], self.RETAIN

    def snapshot(self) -> int:
        return self.count


def running_total(state: float | None, order: Order) -> tuple[float | None, str]:
    total = (state or 0.0) + order.amount
    return total, f"{total:.2f}"


def all_words(state: int | None, order: Order) -> tuple[int | None, list[str]]:
    return state, order.user.split()


def stateful(s: KeyedStream[Order], by_number: Stream[tuple[int, Order]]) -> None:
    assert_type(op.stateful("total", s, Total), KeyedStream[float])
    assert_type(op.stateful("by_number", by_number, Total), Stream[tuple[int, float]])
    assert_type(op.stateful_batch("count", s, Count), KeyedStream[int])
    assert_type(op.stateful_map("running", s, running_total), KeyedStream[str])
    assert_type(op.stateful_flat_map("words", s, all_words), KeyedStream[str])
    assert_type(op.collect("lists", s, timedelta(1), 10), KeyedStream[list[Order]])


def placed_at(order: Order) -> datetime:
    return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=order.amount)


def as_number(version: int, state: Any) -> float:
    return float(state) * version


def kept(s: KeyedStream[Order], names: KeyedStream[str]) -> None:
    hour = timedelta(hours=1)
    by_event = op.TTL(hour, event_time=placed_at)
    assert_type(op.stateful("a", s, Total, ttl=hour, migrate=as_number), KeyedStream[float])
    assert_type(op.stateful_batch("b", s, Count, ttl=by_event), KeyedStream[int])
    shown = op.stateful_map("c", s, running_total, ttl=op.TTL(hour, lambda o: placed_at(o) + hour))
    assert_type(shown, KeyedStream[str])
    assert_type(op.max_final("d", s, lambda o: o.amount, ttl=by_event), KeyedStream[Order])
    assert_type(op.count_final("e", s, lambda kv: kv[0], ttl=hour), KeyedStream[int])
    assert_type(op.join("f", s, names, ttl=hour), KeyedStream[tuple[Order, str]])
    op.stateful_flat_map("g", s, all_words, ttl=60)  # type: ignore
    op.stateful_map("h", names, lambda n, v: (n, v), ttl=by_event)  # type: ignore
    op.stateful("i", s, Total, migrate=len)  # type: ignore


def add(total: float, order: Order) -> float:
    return total + order.amount


def finals(s: KeyedStream[Order], amounts: KeyedStream[float]) -> None:
    assert_type(op.fold_final("fold", s, float, add), KeyedStream[float])
    assert_type(op.reduce_final("reduce", amounts, lambda x, y: x + y), KeyedStream[float])
    assert_type(op.count_final("count", s, lambda pair: pair[0]), KeyedStream[int])
    assert_type(op.max_final("max", amounts), KeyedStream[float])
    assert_type(op.min_final("min", s, lambda order: order.amount), KeyedStream[Order])
    op.max_final("no_order", s)  # type: ignore


def joins(
    a: KeyedStream[int], b: KeyedStream[str], c: KeyedStream[bytes], d: Stream[tuple[int, str]]
) -> None:
    assert_type(op.join("j1", a), KeyedStream[tuple[int]])
    assert_type(op.join("j2", a, b), KeyedStream[tuple[int, str]])
    assert_type(op.join("j3", a, b, c), KeyedStream[tuple[int, str, bytes]])
    assert_type(op.join("j4", a, b, c, a), KeyedStream[tuple[int, str, bytes, int]])
    assert_type(op.join("j5", a, b, c, a, b), KeyedStream[tuple[int, str, bytes, int, str]])
    assert_type(op.join("j6", a, b, c, a, b, c), KeyedStream[tuple[Any, ...]])
    assert_type(op.join("j_many", *[a, a]), KeyedStream[tuple[Any, ...]])
    running = op.join("running", a, b, emit_mode="running")
    assert_type(running, KeyedStream[tuple[int | None, str | None]])
    final = op.join("final", a, b, c, insert_mode="product", emit_mode="final")
    assert_type(final, KeyedStream[tuple[int | None, str | None, bytes | None]])
    assert_type(op.join("by_number", d, d), Stream[tuple[int, tuple[str, str]]])
    op.join("mode", a, b, emit_mode="sometimes")  # type: ignore


def spread(amounts: list[float]) -> float:
    return max(amounts) - min(amounts)


def more(
    s: KeyedStream[Order], amounts: KeyedStream[float], names: KeyedStream[str | None]
) -> None:
    hour = timedelta(hours=1)
    records = op.key_rm("records", s)
    assert_type(op.dedupe("once", records, lambda o: o.amount.hex(), hour), Stream[Order])
    by_event = op.TTL(hour, event_time=placed_at)
    assert_type(op.dedupe("once_by_time", records, str, by_event), Stream[Order])
    op.dedupe("no_ttl", records, str)  # type: ignore
    op.dedupe("no_key", records, lambda o: o.amount, hour)  # type: ignore
    assert_type(op.timeout("silent", s, hour), KeyedStream[Order])
    assert_type(op.table_join("named", s, names), KeyedStream[tuple[Order, str]])
    assert_type(op.table_join("all", s, names, "left"), KeyedStream[tuple[Order, str | None]])
    op.table_join("outer", s, names, "outer")  # type: ignore
    assert_type(op.rolling("count", s, 5, "count"), KeyedStream[int])
    assert_type(op.rolling("mean", amounts, hour, "mean"), KeyedStream[float])
    assert_type(op.rolling("max", amounts, 5, "max"), KeyedStream[float])
    amount = op.rolling("sum", s, hour, "sum", by=lambda o: o.amount, event_time=placed_at)
    assert_type(amount, KeyedStream[float])
    assert_type(op.rolling("all", s, 5, len), KeyedStream[int])
    assert_type(op.rolling("spread", s, 5, spread, by=lambda o: o.amount), KeyedStream[float])
    op.rolling("median", s, 5, "median")  # type: ignore
    cached = op.enrich_cached("e", records, str.upper, lambda c, _o: c.get("a"), max_size=9)
    assert_type(cached, Stream[str])


def chained(flow: Dataflow) -> None:
    s = op.input("in", flow, TestingSource([1]))
    assert_type(s.then(op.map, "m", lambda x: f"{x}"), Stream[str])


def helped(s: Stream[dict[str, str]]) -> None:
    assert_type(op.map("m", s, map_dict_value("a", str.upper)), Stream[dict[str, str]])


@operator
def own(step_id: str, up: Stream[int], n: int) -> Stream[str]:
    return op.map("map", up, lambda x: str(x + n))


def of_my_own(s: Stream[int]) -> None:
    assert_type(own("own", s, 5), Stream[str])
    own("own", s)  # type: ignore


def halved(n: int) -> float:
    return n / 2


async def halved_async(n: int) -> float:
    return n / 2


def all_halved(numbers: list[int]) -> list[float]:
    return [n / 2 for n in numbers]


async def all_halved_async(numbers: list[int]) -> list[float]:
    return [n / 2 for n in numbers]


def told(n: int, ctx: TaskContext) -> str:
    return f"{ctx.task_id} {n}"


async def told_async(n: int, ctx: TaskContext) -> str:
    return f"{ctx.task_id} {n}"


class Model:
    async def score(self, n: int) -> float:
        return n / 2


def called(s: Stream[int]) -> None:
    lists = Batching(size=10)
    assert_type(op.task("plain", s, halved).ok, Stream[float])
    assert_type(op.task("errors", s, halved).errors, Stream[TaskError[int]])
    assert_type(op.task("async", s, halved_async).ok, Stream[float])
    assert_type(op.task("method", s, Model().score, executor="async").ok, Stream[float])
    assert_type(op.task("lists", s, all_halved, batch=lists).ok, Stream[float])
    assert_type(op.task("async_lists", s, all_halved_async, batch=lists).ok, Stream[float])
    assert_type(op.task("told", s, told, executor="process").ok, Stream[str])
    assert_type(op.task("told_async", s, told_async, max_in_flight=9).ok, Stream[str])
    assert_type(op.task("lambda", s, lambda n: f"{n}").ok, Stream[str])
    op.task("wrong", s, str.upper)  # type: ignore
    op.task("no_batch", s, all_halved)  # type: ignore
    op.task("typo", s, halved, max_inflight=3)  # type: ignore


class Account(Actor):
    @handles(Order)
    def order(self, ctx: Context, msg: Order) -> None:
        assert_type(ctx.sender, Ref | None)
        ctx.tell(Account.ref(msg.user), msg)


def messaged(s: KeyedStream[Order]) -> None:
    accounts = op.actor("accounts", s, Account)
    assert_type(accounts.out, Stream[Any])
    assert_type(accounts.dead_letters, Stream[op.DeadMessage])
    op.actor("two", s, Account, Account)
    op.actor("wrong", s, Order)  # type: ignore
    op.actor("made", s, Account())  # type: ignore
