"""`SimplePollingSource`: when it polls, what it gives, and what it keeps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from engine.connectors import SimplePollingSource, StatefulSourcePartition
from engine.inputs import AbortExecution

START = datetime(2024, 1, 1, 10, 20, 30, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Poller(SimplePollingSource[object, None]):
    """Gives, raises, or takes time, as its script says."""

    def __init__(
        self, script: list[object], interval: timedelta, align_to: datetime | None = None
    ) -> None:
        super().__init__(interval, align_to, now_getter=lambda: self.now)
        self.now = START
        self._script = iter(script)

    def next_item(self) -> object:
        step = next(self._script)
        if isinstance(step, Exception):
            raise step
        if isinstance(step, timedelta):
            self.now += step
        return step


def open_part(source: Poller) -> StatefulSourcePartition[object, None]:
    [key] = source.list_parts()
    return source.build_part("flow.in", key, None)


def polls(source: Poller, count: int) -> list[timedelta]:
    """When polls were made, from the start, if each is made as soon as it is due."""
    part = open_part(source)
    times: list[timedelta] = []
    for _ in range(count):
        due = part.next_awake()
        assert due is not None
        source.now = max(source.now, due)
        times.append(source.now - START)
        part.next_batch()
    return times


def test_polls_at_the_interval_from_the_start() -> None:
    """The first poll is at once, the others an interval apart."""
    assert polls(Poller(["a"] * 3, 2 * SECOND), 3) == [0 * SECOND, 2 * SECOND, 4 * SECOND]


def test_aligned_polls_are_on_the_grid() -> None:
    """With `align_to` in the past or the future, polls are at whole intervals from it."""
    for align_to in (datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)):
        times = polls(Poller(["a"] * 2, timedelta(minutes=1), align_to), 2)
        assert times == [30 * SECOND, 90 * SECOND]


def test_aligned_to_now_polls_at_once() -> None:
    """A start right on the grid does not wait for the next instant."""
    assert polls(Poller(["a"], timedelta(minutes=1), START), 1) == [0 * SECOND]


def test_grid_is_not_moved_by_daylight_saving() -> None:
    """Intervals are of real time, though the local clocks of `align_to` change."""
    winter = datetime(2024, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))
    source = Poller(["a"] * 2, timedelta(hours=5), winter)
    source.now = datetime(2024, 6, 1, tzinfo=UTC)
    awake_at = open_part(source).next_awake()
    assert awake_at is not None
    assert (awake_at - winter.astimezone(UTC)) % timedelta(hours=5) == timedelta(0)


def test_slow_poll_is_followed_at_once_but_not_made_up_for() -> None:
    """After a poll that took 2.5 intervals the next is at once, then back on the grid."""
    times = polls(Poller([2.5 * SECOND, "a", "b", "c"], SECOND), 4)
    assert times == [0 * SECOND, 2.5 * SECOND, 3 * SECOND, 4 * SECOND]


def test_retry_comes_sooner_and_keeps_the_grid() -> None:
    """A retry waits for its own timeout; the poll after it is where it would have been."""
    retry = SimplePollingSource.Retry(3 * SECOND)
    times = polls(Poller([retry, "a", "b", "c"], 10 * SECOND), 4)
    assert times == [0 * SECOND, 3 * SECOND, 10 * SECOND, 20 * SECOND]


def test_retry_longer_than_the_interval() -> None:
    """Polls that a retry has passed over are not made up for."""
    retry = SimplePollingSource.Retry(25 * SECOND)
    times = polls(Poller([retry, "a", "b"], 10 * SECOND), 3)
    assert times == [0 * SECOND, 25 * SECOND, 30 * SECOND]


def test_interval_of_zero_is_always_due() -> None:
    """Without an interval a poll is due whenever the worker comes by."""
    source = Poller(["a", SECOND, "b"], timedelta(0), START)
    assert polls(source, 3) == [0 * SECOND, 0 * SECOND, SECOND]


def test_gives_one_item_per_poll() -> None:
    """An item is a batch of one; None and a retry are an empty one; then comes the end."""
    part = open_part(Poller(["a", None, SimplePollingSource.Retry(SECOND), 0], SECOND))
    assert [part.next_batch() for _ in range(4)] == [["a"], [], [], [0]]
    with pytest.raises(StopIteration):
        part.next_batch()


def test_abort_passes_through() -> None:
    """`AbortExecution` reaches the runtime."""
    with pytest.raises(AbortExecution):
        open_part(Poller([AbortExecution()], SECOND)).next_batch()


def test_keeps_no_state_by_default() -> None:
    """Without `snapshot` and `resume` the state is None."""
    assert open_part(Poller(["a"], SECOND)).snapshot() is None


def test_next_awake_is_in_utc() -> None:
    """Whatever zone the clock has, the runtime gets UTC."""
    source = Poller([SimplePollingSource.Retry(SECOND)], SECOND)
    source.now = datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    part = open_part(source)
    assert part.next_awake() == source.now
    part.next_batch()
    assert part.next_awake() == source.now + SECOND
    assert getattr(part.next_awake(), "tzinfo", None) is UTC


def test_refuses_impossible_schedules() -> None:
    """A negative interval and a time without a zone are errors where the source is made."""
    with pytest.raises(ValueError, match="must not be negative"):
        Poller([], -SECOND)
    with pytest.raises(ValueError, match="needs a time zone"):
        Poller([], SECOND, datetime(2024, 1, 1))  # noqa: DTZ001 (what is refused)
