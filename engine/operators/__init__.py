"""The operators that flows are made of.

Each is a function that takes the name of the new step, the streams it works on and its
parameters, and gives the stream that comes out::

    import engine.operators as op

    s = op.input("in", flow, source)
    s = op.map("double", s, lambda x: x * 2)
    op.output("out", s, sink)

Some names are those of Python's built-in functions; import the module, not the names. The core
operators are implemented by `engine.runtime`; all others are compositions of these.
"""

# ruff: noqa: A004

from engine.dataflow import KeyedStream
from engine.operators import helpers
from engine.operators._collect import collect
from engine.operators._dead_letters import DeadLetter, dead_letters
from engine.operators._dedupe import dedupe
from engine.operators._ends import input, output
from engine.operators._enrich import TTLCache, enrich_cached
from engine.operators._finals import count_final, fold_final, max_final, min_final, reduce_final
from engine.operators._inspect import inspect, inspect_debug, raises
from engine.operators._join import join
from engine.operators._join_state import JoinEmitMode, JoinInsertMode
from engine.operators._keying import key_on, key_rm
from engine.operators._keys import Key
from engine.operators._mapping import (
    filter,
    filter_map,
    flat_map,
    flat_map_batch,
    flatten,
    map,
)
from engine.operators._rolling import RollingAggregate, rolling
from engine.operators._shape import BranchOut, branch, merge, redistribute
from engine.operators._state_options import TTL
from engine.operators._stateful import StatefulLogic, stateful, stateful_flat_map, stateful_map
from engine.operators._stateful_batch import StatefulBatchLogic, stateful_batch
from engine.operators._table_join import TableJoinMode, table_join
from engine.operators._timeout import timeout
from engine.operators._values import filter_map_value, filter_value, flat_map_value, map_value
from engine.operators.actors._actor_op import ActorOut, DeadMessage, actor
from engine.operators.tasks._task import TaskError, TaskOut, task

__all__ = [
    "TTL",
    "ActorOut",
    "BranchOut",
    "DeadLetter",
    "DeadMessage",
    "JoinEmitMode",
    "JoinInsertMode",
    "Key",
    "KeyedStream",
    "RollingAggregate",
    "StatefulBatchLogic",
    "StatefulLogic",
    "TTLCache",
    "TableJoinMode",
    "TaskError",
    "TaskOut",
    "actor",
    "branch",
    "collect",
    "count_final",
    "dead_letters",
    "dedupe",
    "enrich_cached",
    "filter",
    "filter_map",
    "filter_map_value",
    "filter_value",
    "flat_map",
    "flat_map_batch",
    "flat_map_value",
    "flatten",
    "fold_final",
    "helpers",
    "input",
    "inspect",
    "inspect_debug",
    "join",
    "key_on",
    "key_rm",
    "map",
    "map_value",
    "max_final",
    "merge",
    "min_final",
    "output",
    "raises",
    "redistribute",
    "reduce_final",
    "rolling",
    "stateful",
    "stateful_batch",
    "stateful_flat_map",
    "stateful_map",
    "table_join",
    "task",
    "timeout",
]
