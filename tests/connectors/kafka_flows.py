"""Flows from lists of messages through Kafka's operators to lists, for the tests of these."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import engine.operators as op
from engine.connectors.kafka import KafkaError, KafkaSourceMessage
from engine.connectors.kafka.operators import KafkaOpOut
from engine.dataflow import Dataflow, Stream
from engine.testing import TestingSink, TestingSource, run_main

Split = Callable[[Stream[Any]], KafkaOpOut[Any, Any]]


def message(
    value: Any, key: Any = b"k", offset: int = 0, topic: str | None = "orders", headers: Any = ()
) -> KafkaSourceMessage[Any, Any]:
    """A message as the source gives it."""
    return KafkaSourceMessage(
        key, value, topic, list(headers), None, offset, 3, (1, 1_700_000_000_000)
    )


def messages(values: Iterable[Any]) -> list[KafkaSourceMessage[Any, Any]]:
    """Messages with these values, one after the other in a partition."""
    return [message(value, offset=offset) for offset, value in enumerate(values)]


def through(records: Iterable[Any], build: Callable[[Stream[Any]], Stream[Any]]) -> list[Any]:
    """What comes out of a stream that is built on some records."""
    flow, out = Dataflow("flow"), []
    s = op.input("source", flow, TestingSource(records, batch_size=4))
    op.output("sink", build(s), TestingSink(out))
    run_main(flow)
    return out


def split(records: Iterable[Any], build: Split) -> tuple[list[Any], list[KafkaError[Any, Any]]]:
    """What comes out of both streams of an operator."""
    flow, oks, errs = Dataflow("flow"), [], []
    made = build(op.input("source", flow, TestingSource(records, batch_size=4)))
    op.output("oks", made.oks, TestingSink(oks))
    op.output("errs", made.errs, TestingSink(errs))
    run_main(flow)
    return oks, errs
