"""Sources under the module name that Bytewax uses: `bytewax.inputs` becomes `engine.inputs`.

Everything here is `engine.connectors`'s; the docstrings there say how to write a source.
"""

from __future__ import annotations

from engine.connectors import UnavailableError
from engine.connectors._batching import batch, batch_async, batch_getter, batch_getter_ex
from engine.connectors._polling import SimplePollingSource, Sn
from engine.connectors._source import (
    AbortExecution,
    DynamicSource,
    FixedPartitionedSource,
    Lag,
    S,
    Source,
    SourcePartition,
    StatefulSourcePartition,
    StatelessSourcePartition,
    X,
)

__all__ = [
    "AbortExecution",
    "DynamicSource",
    "FixedPartitionedSource",
    "Lag",
    "S",
    "SimplePollingSource",
    "Sn",
    "Source",
    "SourcePartition",
    "StatefulSourcePartition",
    "StatelessSourcePartition",
    "UnavailableError",
    "X",
    "batch",
    "batch_async",
    "batch_getter",
    "batch_getter_ex",
]
