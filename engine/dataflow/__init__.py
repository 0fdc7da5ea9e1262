"""The graph that a user builds: `Dataflow`, `Stream` and the `operator` decorator.

Pure data: it imports nothing else of the engine and does no I/O. `engine.operators` adds steps to
it, `engine.runtime` plans and runs it.
"""

from engine.dataflow._callable_name import f_repr
from engine.dataflow._fingerprint import fingerprint
from engine.dataflow._graph import (
    Dataflow,
    ErrorPolicy,
    KeyedStream,
    MultiPort,
    Operator,
    Port,
    SinglePort,
    Stream,
)
from engine.dataflow._operator import operator

__all__ = [
    "Dataflow",
    "ErrorPolicy",
    "KeyedStream",
    "MultiPort",
    "Operator",
    "Port",
    "SinglePort",
    "Stream",
    "f_repr",
    "fingerprint",
    "operator",
]
