"""What `engine.operators.windowing` offers: the names that users of Bytewax 0.21 know."""

from __future__ import annotations

import inspect
import types
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import engine.operators.windowing as win

# Parameters, with those that have a default in brackets and those by name only behind a star.
EMITTING = "* [allowed_lateness] [trigger] [state_version] [migrate]"
SHARING = "* [allowed_lateness] [trigger] [share_panes] [state_version] [migrate]"
SIGNATURES = {
    "Emission": "value cause",
    "OnCount": "count",
    "OnInterval": "interval",
    "OnUpdate": "",
    "EventClock": "ts_getter wait_for_system_duration [now_getter] [to_system_utc] "
    "* [scope] [idle_after]",
    "JoinOut": "down late",
    "OrderOut": "down late",
    "SessionWindower": "gap",
    "SlidingWindower": "length offset align_to",
    "SystemClock": "",
    "TumblingWindower": "length align_to",
    "WindowMetadata": "open_time close_time [merged_ids]",
    "WindowOut": "down late meta",
    "as_of_join": "step_id clock left right * [tolerance] [how] [state_version] [migrate]",
    "collect_window": "step_id up clock windower [into] [ordered] " + EMITTING,
    "count_window": "step_id up clock windower key " + EMITTING,
    "fold_window": "step_id up clock windower builder folder merger [ordered] " + SHARING,
    "interval_join": "step_id clock left right before after * [how] [state_version] [migrate]",
    "join_window": "step_id clock windower *sides * [insert_mode] [emit_mode] [ordered] "
    "[state_version] [migrate]",
    "max_window": "step_id up clock windower [by] " + EMITTING,
    "min_window": "step_id up clock windower [by] " + EMITTING,
    "order_by_time": "step_id up clock * [state_version] [migrate]",
    "reduce_window": "step_id up clock windower reducer " + SHARING,
    "window": "step_id up clock windower builder [ordered] * [state_version] [migrate]",
}
METHODS = {
    "Clock": {"build"},
    "ClockLogic": {"on_item", "on_notify", "on_eof", "to_system_utc", "snapshot"},
    "WindowLogic": {"on_value", "on_merge", "on_close", "snapshot"},
    "Windower": {"build"},
    "WindowerLogic": {
        "open_for", "late_for", "merged", "close_for", "notify_at", "is_empty", "snapshot",
    },
}  # fmt: skip
OTHERS = {
    "AsOfJoinHow", "Cause", "EventClockScope", "IntervalJoinHow", "LATE_SESSION_ID", "Trigger",
    "UTC_MAX", "UTC_MIN", "ZERO_TD",
}  # fmt: skip


def shown(signature: inspect.Signature) -> str:
    words = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        name = star + parameter.name
        words.append(name if parameter.default is parameter.empty else f"[{name}]")
    return " ".join(words)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    """Names, order and defaults of parameters are those that users know."""
    assert shown(inspect.signature(getattr(win, name))) == SIGNATURES[name]


@pytest.mark.parametrize("name", METHODS)
def test_what_own_classes_have_to_do(name: str) -> None:
    """The methods of the base classes are those that users know."""
    assert getattr(win, name).__abstractmethods__ == METHODS[name]


def test_all_names_exactly_what_is_public() -> None:
    """`__all__` is complete and has nothing else in it. (Ruff sees to its order.)"""
    assert set(win.__all__) == set(SIGNATURES) | set(METHODS) | OTHERS
    public = {name for name in vars(win) if not name.startswith("_")}
    modules = {name for name in public if isinstance(getattr(win, name), types.ModuleType)}
    assert public - modules == set(win.__all__)


def test_constants() -> None:
    """They have the values that users know."""
    assert timedelta(0) == win.ZERO_TD
    assert datetime.min.replace(tzinfo=UTC) == win.UTC_MIN
    assert datetime.max.replace(tzinfo=UTC) == win.UTC_MAX
    assert win.LATE_SESSION_ID == -1


def test_metadata_compares_as_users_do() -> None:
    """Made of two times it has merged ids of its own, a set."""
    one, other = (win.WindowMetadata(win.UTC_MIN, win.UTC_MAX) for _ in range(2))
    assert one == other
    assert one.merged_ids == set()
    assert one.merged_ids is not other.merged_ids


@pytest.mark.parametrize("name", [n for n in SIGNATURES if inspect.isfunction(getattr(win, n))])
def test_every_operator_has_an_example(name: str) -> None:
    """What it does, its arguments and an example that runs a flow stand in its docstring."""
    function: Any = getattr(win, name)
    doc = inspect.getdoc(function) or ""
    assert ">>> run_main(flow)" in doc
    assert f"win.{name}(" in doc
    for parameter in inspect.signature(function).parameters.values():
        star = "*" if parameter.kind is inspect.Parameter.VAR_POSITIONAL else ""
        assert f"    {star}{parameter.name}: " in doc
