"""The contracts of sources and sinks, and the helpers to write them.

A source reads records into a dataflow (`engine.operators.input`), a sink takes them out of it
(`engine.operators.output`). Which base class to start from:

- `FixedPartitionedSource`: the outside can be read again from a position (a file, a log);
- `DynamicSource`: it can't (a socket);
- `SimplePollingSource`: one function, asked at an interval;
- `FixedPartitionedSink`: the target has named parts that can be rewound (files);
- `DynamicSink`: every worker just writes (a broker, a database, a terminal).

Ready-made ones are in `engine.connectors.kafka`, `engine.connectors.files`,
`engine.connectors.sqlite`, `engine.connectors.stdio` and `engine.connectors.demo`. `engine.inputs`
and `engine.outputs` offer the same names under the module names that Bytewax uses.
"""

from __future__ import annotations

from engine.connectors._batching import batch, batch_async, batch_getter, batch_getter_ex
from engine.connectors._polling import SimplePollingSource
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
from engine.connectors._source import (
    AbortExecution,
    DynamicSource,
    FixedPartitionedSource,
    Lag,
    Source,
    SourcePartition,
    StatefulSourcePartition,
    StatelessSourcePartition,
)
from engine.errors import FencedError, UnavailableError

__all__ = [
    "PENDING",
    "AbortExecution",
    "Delivery",
    "DynamicSink",
    "DynamicSource",
    "FencedError",
    "FixedPartitionedSink",
    "FixedPartitionedSource",
    "Lag",
    "Pending",
    "SimplePollingSource",
    "Sink",
    "SinkPartition",
    "SinkSession",
    "Source",
    "SourcePartition",
    "StatefulSinkPartition",
    "StatefulSourcePartition",
    "StatelessSinkPartition",
    "StatelessSourcePartition",
    "UnavailableError",
    "batch",
    "batch_async",
    "batch_getter",
    "batch_getter_ex",
]
