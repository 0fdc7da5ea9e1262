"""What workers and the coordinator say to each other. Plain values: no behaviour, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from engine.runtime._ids import Epoch, WorkerIndex

NewParts: TypeAlias = dict[str, dict[str, WorkerIndex]]
"""Partitions that were found while running: by step and name, whose they are."""


@dataclass(frozen=True, slots=True)
class Barrier:
    """In-band on every channel: all records of the epoch are before it."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class End:
    """In-band on every channel: no more records will come. Barriers go on."""


END = End()

HOLD_US = -(1 << 63)
"""In place of a watermark: records of any time may come."""
LEFT_OUT_US = (1 << 63) - 1
"""In place of a watermark: from here nothing is waited for, until something else is said."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """In-band on the channels to a step with a stream clock: so far is event time here."""

    at_us: int
    """In microseconds since 1970 UTC; or `HOLD_US`, or `LEFT_OUT_US`, which compare as they should:
    the lowest of several counts."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """In-band between stages, where clocks want it: whether all has been read that was there.

    By all partitions from which records may come this way.
    """

    yes: bool


@dataclass(frozen=True, slots=True)
class Quiet:
    """In-band on the edge of a step to itself: all input has ended and nothing waits here.

    Each worker says how many messages it has sent to each one, and received from each one.
    """

    sent: tuple[int, ...]
    received: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CloseEpoch:
    """To workers: note source positions and send the barrier of the open epoch."""

    epoch: Epoch
    final: bool
    """No records after it: sources stop here."""
    new_parts: NewParts = field(default_factory=dict[str, dict[str, WorkerIndex]])
    """Of sources, to be opened right after the barrier."""


@dataclass(frozen=True, slots=True)
class CommitEpoch:
    """To workers: the epoch is durable; publish it and tell the sources."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Stop:
    """To workers: all is done; close and leave."""


Command: TypeAlias = CloseEpoch | CommitEpoch | Stop
"""What workers are told."""


@dataclass(frozen=True, slots=True)
class LinkEpoch:
    """To the driver alone: make the manifest of the epoch durable."""

    epoch: Epoch


Decision: TypeAlias = Command | LinkEpoch
"""What the coordinator decides."""


@dataclass(frozen=True, slots=True)
class EpochRequest:
    """From a worker: close the epoch now; the interval is zero and something happened."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """From a worker: all its stages have passed the barrier and all sinks took their records."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Published:
    """From a worker: its sinks have published the epoch."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Ended:
    """From a worker: the end of input has reached all its sinks."""


Report: TypeAlias = EpochRequest | Prepared | Published | Ended
