"""The timers of keyed steps, against a plain dict."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine.operators._timers import Timers

KEYS = st.sampled_from("abcdef")
TIMES = st.integers(0, 20).map(float)


class TimersMachine(RuleBasedStateMachine):
    """Any sequence of calls leaves the timers that a dict would hold."""

    def __init__(self) -> None:
        super().__init__()
        self.timers = Timers()
        self.model: dict[str, float] = {}

    @rule(key=KEYS, due=st.none() | TIMES)
    def set_one(self, key: str, due: float | None) -> None:
        self.timers.set(key, due)
        if due is None:
            self.model.pop(key, None)
        else:
            self.model[key] = due

    @rule(now=TIMES)
    def fire(self, now: float) -> None:
        fired = self.timers.pop_due(now)
        times = [self.model.pop(key) for _, key in fired]
        assert [due for due, _ in fired] == times
        assert times == sorted(times)
        assert all(time <= now for time in times)
        assert all(time > now for time in self.model.values())

    @invariant()
    def first_is_the_earliest(self) -> None:
        assert self.timers.first_s() == min(self.model.values(), default=None)


TestTimers = TimersMachine.TestCase
TestTimers.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


@settings(max_examples=20, deadline=None)
@given(st.lists(TIMES, min_size=1))
def test_the_heap_does_not_grow_with_moves(times: list[float]) -> None:
    """Moving one timer for ever keeps a bounded number of entries."""
    timers = Timers()
    for i in range(2000):
        timers.set("key", times[i % len(times)] + i)
    assert len(timers._heap) <= 65
    timers.set("key", None)
    assert timers.first_s() is None
