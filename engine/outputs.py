"""Sinks under the module name that Bytewax uses: `bytewax.outputs` becomes `engine.outputs`.

Everything here is `engine.connectors`'s; the docstrings there say how to write a sink.
"""

from __future__ import annotations

from engine.connectors import FencedError
from engine.connectors._sink import (
    PENDING,
    Delivery,
    DynamicSink,
    FixedPartitionedSink,
    Pending,
    Sink,
    SinkPartition,
    SinkSession,
    StatefulSinkPartition,
    StatelessSinkPartition,
)
from engine.connectors._source import S, X

__all__ = [
    "PENDING",
    "Delivery",
    "DynamicSink",
    "FencedError",
    "FixedPartitionedSink",
    "Pending",
    "S",
    "Sink",
    "SinkPartition",
    "SinkSession",
    "StatefulSinkPartition",
    "StatelessSinkPartition",
    "X",
]
