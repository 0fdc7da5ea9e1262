"""What to simulate, and what a simulated run came to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from engine.errors import EngineError
from engine.operators.tasks import Resources
from engine.runtime import CHANNEL_BYTES_MAX, DEFAULT_EPOCH_INTERVAL


class SimulationError(EngineError, RuntimeError):
    """A simulated run got stuck, or did not end within its bound of steps."""


@dataclass(frozen=True, slots=True)
class SimOptions:
    """What to simulate; all of it may be left out."""

    workers: int = 1
    epoch_interval: timedelta = DEFAULT_EPOCH_INTERVAL
    """Simulated time between epochs; zero makes each source batch an epoch of its own."""
    channel_batches: int = 2
    """How many batches a channel between two stages holds."""
    channel_bytes: int = CHANNEL_BYTES_MAX
    """How many bytes it holds, as the engine estimates the size of batches."""
    step_max: timedelta = timedelta(microseconds=100)
    """How long one step may take; drawn by the seed. The longer, the more often do timers and
    epochs come while much else is going on."""
    delay_max: timedelta = timedelta(0)
    """How long a message may be under way. Some links are slow, others fast; which is drawn by the
    seed, and each keeps its order."""
    pause_max: timedelta = timedelta(0)
    """For how long a worker may stand still, as one does whose machine is busy. Zero for never."""
    state_bytes_max: int | None = None
    """How much memory a worker's states may take; only for a run with a store."""
    call_max: timedelta = timedelta(seconds=1)
    """How long the calls of tasks take at most."""
    deaths: float = 0.0
    """In what share of these calls the process dies that runs it."""
    hangs: float = 0.0
    """What share of them never ends."""
    offers: tuple[Resources, ...] = ()
    """What each worker offers to tasks, from the first; none of them anything if left out."""
    start: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    """What the wall clock shows at first."""
    steps_max: int = 1_000_000
    """After how many steps a run counts as one that never ends."""
    kernels: bool = True
    """Use fast kernels of composed operators; their compositions otherwise."""


@dataclass(slots=True)
class SimResult:
    """What a simulated run came to."""

    seed: int
    steps: int = 0
    epochs: int = 0
    """How many epochs were committed."""
    elapsed: timedelta = timedelta(0)
    """Simulated time from start to end."""
    queued_max: int = 0
    """The most items that lay in one channel between two stages, barriers included and watermarks
    not."""
    queued_bytes_max: int = 0
    """The most bytes that lay in one channel from another worker."""
    aborted: bool = False
    """A source ended the run by `AbortExecution`."""
