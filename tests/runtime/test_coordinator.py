"""The coordinator's state machine: when epochs close, are committed, and when a run is over."""

from __future__ import annotations

import math

import pytest

from engine.errors import InternalError
from engine.runtime._coordinator import Coordinator, Phase
from engine.runtime._ids import Epoch, WorkerIndex
from engine.runtime._messages import (
    CloseEpoch,
    Command,
    CommitEpoch,
    Ended,
    EpochRequest,
    Prepared,
    Published,
    Report,
    Stop,
)

A, B = WorkerIndex(0), WorkerIndex(1)
ONE, TWO = Epoch(1), Epoch(2)


def close(epoch: int, *, final: bool = False) -> CloseEpoch:
    return CloseEpoch(Epoch(epoch), final)


def tell(coordinator: Coordinator, report: Report, *, now_s: float = 0.0) -> list[Command]:
    """A report from the only worker, or from both."""
    commands: list[Command] = []
    for worker in (A, B)[: coordinator._workers]:
        commands += coordinator.on_report(worker, report, now_s)
    return commands


def test_an_epoch_closes_when_its_interval_is_over():
    """Not before, and once."""
    coordinator = Coordinator(1, 10.0, 100.0)
    assert coordinator.next_time_s() == 110.0
    assert coordinator.on_time(109.9) == []
    assert coordinator.on_time(110.0) == [close(1)]
    assert coordinator.on_time(111.0) == []
    assert coordinator.next_time_s() == math.inf


def test_an_epoch_is_committed_when_all_workers_have_prepared_it():
    """And the next begins when all have published it, with an interval of its own."""
    coordinator = Coordinator(2, 10.0, 0.0)
    coordinator.on_time(10.0)
    assert coordinator.on_report(A, Prepared(ONE), 11.0) == []
    assert coordinator.on_report(B, Prepared(ONE), 12.0) == [CommitEpoch(ONE)]
    assert coordinator.on_report(B, Published(ONE), 13.0) == []
    assert coordinator.phase is Phase.COMMITTING
    assert coordinator.on_report(A, Published(ONE), 14.0) == []
    assert (coordinator.phase, coordinator.epoch) == (Phase.OPEN, TWO)
    assert coordinator.next_time_s() == 24.0
    assert coordinator.epochs_committed == 1


def test_with_no_interval_an_epoch_closes_on_request():
    """Time alone closes none."""
    coordinator = Coordinator(1, 0.0, 0.0)
    assert coordinator.next_time_s() == math.inf
    assert coordinator.on_time(1e9) == []
    assert tell(coordinator, EpochRequest()) == [close(1)]


def test_a_request_while_an_epoch_is_under_way_closes_the_next():
    """Whatever has happened since is not forgotten; and not counted twice."""
    coordinator = Coordinator(2, 0.0, 0.0)
    assert coordinator.on_report(A, EpochRequest(), 0.0) == [close(1)]
    assert coordinator.on_report(B, EpochRequest(), 0.0) == []
    assert tell(coordinator, Prepared(ONE)) == [CommitEpoch(ONE)]
    assert tell(coordinator, Published(ONE)) == [close(2)]
    tell(coordinator, Prepared(TWO))
    assert tell(coordinator, Published(TWO)) == []
    assert coordinator.phase is Phase.OPEN


def test_the_last_epoch_begins_when_all_workers_have_ended():
    """And after it all stop."""
    coordinator = Coordinator(2, 10.0, 0.0)
    assert coordinator.on_report(A, Ended(), 1.0) == []
    assert coordinator.on_report(B, Ended(), 2.0) == [close(1, final=True)]
    assert tell(coordinator, Prepared(ONE)) == [CommitEpoch(ONE)]
    assert tell(coordinator, Published(ONE)) == [Stop()]
    assert coordinator.phase is Phase.STOPPED
    assert coordinator.on_time(100.0) == []
    assert coordinator.next_time_s() == math.inf


@pytest.mark.parametrize("phase", [Phase.CLOSING, Phase.COMMITTING])
@pytest.mark.parametrize("why", ["end", "drain"])
def test_what_ends_a_run_may_come_while_an_epoch_is_under_way(phase: Phase, why: str):
    """That epoch is no last one: records may have come since it closed. One more follows."""
    coordinator = Coordinator(1, 10.0, 0.0)
    coordinator.on_time(10.0)
    if phase is Phase.COMMITTING:
        tell(coordinator, Prepared(ONE))
    ending = coordinator.drain(10.0) if why == "drain" else tell(coordinator, Ended())
    assert ending == []
    if phase is Phase.CLOSING:
        assert tell(coordinator, Prepared(ONE)) == [CommitEpoch(ONE)]
    assert tell(coordinator, Published(ONE)) == [close(2, final=True)]
    tell(coordinator, Prepared(TWO))
    assert tell(coordinator, Published(TWO)) == [Stop()]
    assert coordinator.epochs_committed == 2


def test_a_drain_closes_the_last_epoch_at_once():
    """Whatever the interval; a second drain changes nothing."""
    coordinator = Coordinator(1, 10.0, 0.0)
    assert coordinator.drain(1.0) == [close(1, final=True)]
    assert coordinator.drain(1.1) == []
    tell(coordinator, Prepared(ONE))
    assert coordinator.drain(1.2) == []
    assert tell(coordinator, Published(ONE)) == [Stop()]
    assert coordinator.drain(1.3) == []


def test_an_end_during_the_last_epoch_of_a_drain_changes_nothing():
    """The run is over anyway."""
    coordinator = Coordinator(1, 10.0, 0.0)
    coordinator.drain(1.0)
    assert tell(coordinator, Ended()) == []
    tell(coordinator, Prepared(ONE))
    assert tell(coordinator, Published(ONE)) == [Stop()]


@pytest.mark.parametrize(
    ("before", "report"),
    [
        ([], Prepared(ONE)),
        ([], Published(ONE)),
        (["close"], Published(ONE)),
        (["close"], Prepared(TWO)),
        (["close", Prepared(ONE)], Prepared(ONE)),
        (["close", Prepared(ONE)], Published(TWO)),
        (["close", Prepared(ONE), Published(ONE)], Published(ONE)),
    ],
)
def test_a_report_that_can_not_be_true_is_an_internal_error(before: list, report: Report):
    """The engine broke its own rules, and says so instead of going on."""
    coordinator = Coordinator(1, 10.0, 0.0)
    for event in before:
        if event == "close":
            coordinator.on_time(10.0)
        else:
            tell(coordinator, event)
    with pytest.raises(InternalError, match=r"worker 0 reports epoch \d while epoch \d is [A-Z]+"):
        coordinator.on_report(A, report, 20.0)


def test_a_worker_counts_once():
    """Two reports of one worker don't stand for two workers."""
    coordinator = Coordinator(2, 10.0, 0.0)
    coordinator.on_time(10.0)
    coordinator.on_report(A, Prepared(ONE), 10.0)
    with pytest.raises(InternalError):
        coordinator.on_report(A, Prepared(ONE), 10.0)
    once_ended = Coordinator(2, 10.0, 0.0)
    once_ended.on_report(A, Ended(), 1.0)
    assert once_ended.on_report(A, Ended(), 1.0) == []
