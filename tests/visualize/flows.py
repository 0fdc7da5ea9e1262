"""Flows to draw."""

from __future__ import annotations

from typing import Any

import engine.operators as op
from engine.dataflow import Dataflow, Stream, operator
from engine.operators import KeyedStream
from engine.testing import TestingSink, TestingSource


@operator
def shout(step_id: str, up: Stream[str], sign: str) -> Stream[str]:
    """An operator of a user's own, made of two others."""
    upper = op.map("upper", up, str.upper)
    return op.map("sign", upper, lambda text: text + sign)


def orders() -> Dataflow:
    """Two inputs, a branch, a join of the same streams twice over, an own operator."""
    flow = Dataflow("orders")
    lines = op.input("lines", flow, TestingSource(["a"]))
    rates = op.input("rates", flow, TestingSource(["b"]))
    parted = op.branch("parted", lines, lambda line: line > "a")
    loud = shout("loud", parted.trues, "!")
    left: KeyedStream[Any] = op.key_on("left", parted.falses, str)
    right: KeyedStream[Any] = op.key_on("right", rates, str)
    both = op.join("both", left, right)
    everything = op.merge("all", both, loud)
    op.output("out", everything, TestingSink([]))
    return flow


def counting() -> Dataflow:
    """A chain with one keyed step in the middle, and a step with nothing after it."""
    flow = Dataflow("counting")
    words = op.input("words", flow, TestingSource(["a"]))
    lower = op.map("lower", words, str.lower)
    long = op.filter("long", lower, lambda word: len(word) > 3)
    keyed = op.key_on("key", long, str)
    counts = op.stateful_map("count", keyed, lambda n, _word: ((n or 0) + 1, n))
    text = op.map("text", counts, str)
    op.output("out", text, TestingSink([]))
    op.inspect("look", words)
    return flow
