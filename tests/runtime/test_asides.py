"""Steps with a second output share loops too, and fill it only where some step reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow, Stream, operator
from engine.dataflow._operator import new_stream
from engine.operators._codegen import RecordCode, Value
from engine.operators._kernels import RecordKernel, StepContext
from engine.runtime import plan
from engine.runtime._plan import runs_of
from engine.testing import TestingSink, TestingSource, cluster_main, run_main
from tests.runtime.test_counts import counted, items


@dataclass(frozen=True, slots=True)
class SiftKernel(RecordKernel):
    """Puts odd numbers aside, or drops them where nobody wants them."""

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        record = code.var(value)
        code.nest(f"if {record} % 2:")
        if step.aside is not None:
            code.line(f"{code.bind('aside', step.aside)}.append({record})")
        code.line("continue")
        code.leave()
        return Value(record)


@dataclass(frozen=True, slots=True)
class SiftOut:
    even: Stream[int]
    odd: Stream[int]


@operator(core=True, kernel=lambda _step, _workers: SiftKernel())
def sift(step_id: str, up: Stream[int]) -> SiftOut:
    return SiftOut(new_stream(step_id, up, "even"), new_stream(step_id, up, "odd"))


def numbers(items: Any, batch_size: int = 3) -> tuple[Dataflow, Stream[int]]:
    flow = Dataflow("flow")
    return flow, op.input("in", flow, TestingSource(items, batch_size))


def runs(flow: Dataflow) -> list[list[str]]:
    planned = plan(flow)
    return [
        [step.step_id.partition(".")[2] for step in run]
        for stage in planned.stages
        for run in runs_of(planned, stage)
    ]


def test_both_outputs_get_their_records_in_order():
    """What is put aside goes to its reader, the rest goes on."""
    flow, s = numbers(range(10))
    even, odd = [], []
    sifted = sift("sift", s)
    op.output("odd", op.map("neg", sifted.odd, lambda n: -n), TestingSink(odd))
    op.output("even", op.map("double", sifted.even, lambda n: n * 2), TestingSink(even))
    run_main(flow)
    assert even == [0, 4, 8, 12, 16]
    assert odd == [-1, -3, -5, -7, -9]


def test_the_loop_goes_on_on_the_first_output_only():
    """The step shares a loop with the steps around it; the reader of the rest has its own."""
    flow, s = numbers([])
    sifted = sift("sift", op.map("before", s, lambda n: n))
    after = op.map("after", sifted.even, lambda n: n)
    rest = op.map("rest", sifted.odd, lambda n: n)
    op.output("out", op.merge("merge", after, rest), TestingSink([]))
    assert ["before", "sift", "after"] in runs(flow)
    assert ["rest"] in runs(flow)


def test_an_output_that_nobody_reads_is_not_filled():
    """Either output may be left unused."""
    flow, s = numbers(range(5))
    out = []
    op.output("even", sift("sift", s).even, TestingSink(out))
    run_main(flow)
    assert out == [0, 2, 4]
    flow, s = numbers(range(5))
    out.clear()
    op.output("odd", sift("sift", s).odd, TestingSink(out))
    run_main(flow)
    assert out == [1, 3]


def test_two_such_steps_in_one_loop():
    """Each has a second output of its own, and both may go to one reader."""
    flow, s = numbers(range(12))
    out, rest = [], []
    first = sift("first", s)
    second = sift("second", op.map("half", first.even, lambda n: n // 2))
    op.output("rest", op.merge("merge", first.odd, second.odd), TestingSink(rest))
    op.output("out", second.even, TestingSink(out))
    assert ["first", "half", "second"] in runs(flow)
    run_main(flow)
    assert out == [0, 2, 4]
    assert sorted(rest) == [1, 1, 3, 3, 5, 5, 7, 9, 11]


@pytest.mark.parametrize("workers", [2, 3])
def test_an_exchange_behind_the_second_output(workers: int):
    """What is put aside changes workers like anything else, and all of it is there at the end."""
    flow, s = numbers(range(200))
    even, odd = [], []
    sifted = sift("sift", op.redistribute("deal", s))
    keyed = op.key_on("key", sifted.odd, lambda n: str(n % 10))
    counts = op.count_final("count", keyed, lambda pair: pair[0])
    op.output("odd", counts, TestingSink(odd))
    op.output("even", sifted.even, TestingSink(even))
    cluster_main(flow, [], 0, worker_count_per_proc=workers)
    assert sorted(even) == list(range(0, 200, 2))
    assert sorted(odd) == [(d, 20) for d in "13579"]


def test_what_a_loop_gives_is_counted_on_both_ways():
    """Metrics of a step with a second output have what went either way."""

    def build(s: Stream[int]) -> Stream[int]:
        sifted = sift("sift", s)
        op.output("odd", sifted.odd, TestingSink([]))
        return op.map("after", sifted.even, lambda n: n)

    assert items(counted(build, [list(range(5))]))["flow.sift"] == (5, 5)
