"""What `engine.operators` offers: the names that users of Bytewax 0.21 know, and no accidents."""

from __future__ import annotations

import inspect
import types

import pytest

import engine.operators as op
from engine.operators import helpers
from tests.operators.flows import emitted

# Parameters after the step id, with those that have a default in brackets.
SIGNATURES = {
    "actor": "commands *classes",
    "branch": "up predicate",
    "collect": "up timeout max_size [state_version] [migrate]",
    "count_final": "up key [ttl] [state_version] [migrate]",
    "dead_letters": "flow",
    "dedupe": "up key ttl",
    "enrich_cached": "up getter mapper [ttl] [_now_getter] [max_size]",
    "filter": "up predicate",
    "filter_map": "up mapper",
    "filter_map_value": "up mapper",
    "filter_value": "up predicate",
    "flat_map": "up mapper",
    "flat_map_batch": "up mapper",
    "flat_map_value": "up mapper",
    "flatten": "up",
    "fold_final": "up builder folder [ttl] [state_version] [migrate]",
    "input": "flow source",
    "inspect": "up [inspector]",
    "inspect_debug": "up [inspector]",
    "join": "*sides [insert_mode] [emit_mode] [ttl] [state_version] [migrate]",
    "key_on": "up key",
    "key_rm": "up",
    "map": "up mapper",
    "map_value": "up mapper",
    "max_final": "up [by] [ttl] [state_version] [migrate]",
    "merge": "*ups",
    "min_final": "up [by] [ttl] [state_version] [migrate]",
    "output": "up sink",
    "raises": "up",
    "redistribute": "up",
    "reduce_final": "up reducer [ttl] [state_version] [migrate]",
    "rolling": "up size how [by] [event_time] [ttl] [state_version] [migrate]",
    "stateful": "up builder [ttl] [state_version] [migrate]",
    "stateful_batch": "up builder [ttl] [state_version] [migrate]",
    "stateful_flat_map": "up mapper [ttl] [state_version] [migrate]",
    "stateful_map": "up mapper [ttl] [state_version] [migrate]",
    "table_join": "stream table [how] [ttl] [state_version] [migrate]",
    "task": (
        "up fn [executor] [max_in_flight] [order] [timeout] [retry] [batch] [rate] [on_error] "
        "[submit] [idempotency] [resources] [placement]"
    ),
    "timeout": "up after [state_version] [migrate]",
}
OTHERS = {
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
    "TTL",
    "TTLCache",
    "TableJoinMode",
    "TaskError",
    "TaskOut",
    "helpers",
}


def shown(parameter: inspect.Parameter) -> str:
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return f"*{parameter.name}"
    return parameter.name if parameter.default is parameter.empty else f"[{parameter.name}]"


@pytest.mark.parametrize("parameter", ["ttl", "state_version", "migrate"])
def test_what_says_something_about_state_is_a_keyword(parameter: str) -> None:
    """Arguments that calls written for Bytewax don't have can't be in the way of theirs."""
    for name in SIGNATURES:
        found = inspect.signature(getattr(op, name)).parameters.get(parameter)
        if found is not None and name not in {"enrich_cached", "dedupe"}:
            assert found.kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    """Names, order and defaults of parameters are those that users know."""
    first, *rest = inspect.signature(getattr(op, name)).parameters.values()
    assert first.name == "step_id"
    assert " ".join(shown(parameter) for parameter in rest) == SIGNATURES[name]


def test_all_names_exactly_what_is_public() -> None:
    """`__all__` is complete and has nothing else in it. (Ruff sees to its order.)"""
    assert set(op.__all__) == set(SIGNATURES) | OTHERS
    public = {name for name, value in vars(op).items() if not name.startswith("_")}
    modules = {name for name in public if isinstance(getattr(op, name), types.ModuleType)}
    assert public - modules <= set(op.__all__)


def test_flags_of_logics() -> None:
    """The flags have the values that logics written elsewhere return as plain bools."""
    for kind in (op.StatefulBatchLogic, op.StatefulLogic):
        assert kind.RETAIN is False
        assert kind.DISCARD is True


def test_map_dict_value_changes_one_entry() -> None:
    """The helper makes a mapper for dicts; a dict without the entry is an error."""
    mapper = helpers.map_dict_value("n", lambda n: n + 1)
    assert emitted(lambda s: op.map("m", s, mapper), [{"n": 1, "m": 1}]) == [{"n": 2, "m": 1}]
    with pytest.raises(KeyError):
        mapper({})
