"""Looks for new partitions of sources while a flow runs, in the process that leads it."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any

from engine.errors import EngineRuntimeError
from engine.operators._kernels import InputKernel
from engine.runtime._deal import Deal
from engine.runtime._failure import name_of
from engine.runtime._ids import WorkerIndex
from engine.runtime._listing import listed
from engine.runtime._messages import NewParts
from engine.runtime._plan import Plan
from engine.runtime._ports import Waiter


class Discovery:
    """Asks sources for their partitions again, on threads of its own, and deals the new ones.

    Args:
        sources: Those that want to be asked, by step.
        deal: Which worker has which partition now.
        workers: How many workers there are.
        waiter: Is woken when something was found.
        tell: Takes lines for people.
    """

    def __init__(
        self,
        sources: dict[str, Any],
        deal: Deal,
        workers: int,
        waiter: Waiter,
        tell: Callable[[str], None],
    ) -> None:
        self.found: deque[NewParts] = deque()
        """What nobody has taken yet; from any thread."""
        self._sources = sources
        self._known = {step_id: set(dealt) for step_id, dealt in deal.sources.items()}
        self._dealing = threading.Lock()
        self._loads = Counter({WorkerIndex(i): 0 for i in range(workers)})
        for dealt in deal.sources.values():
            self._loads.update(dealt.values())
        self._waiter = waiter
        self._tell = tell
        self._over = threading.Event()

    def start(self) -> None:
        """Begin to look."""
        for step_id in self._sources:
            threading.Thread(
                target=self._look, args=(step_id,), name=f"engine-parts-{step_id}", daemon=True
            ).start()

    def _look(self, step_id: str) -> None:
        source = self._sources[step_id]
        interval_s = source.discovery_interval.total_seconds()
        while not self._over.wait(interval_s):
            try:
                names = listed(step_id, source)
            except Exception as ex:  # noqa: BLE001 - what can't be asked now may be able to later
                cause = ex.__cause__ or ex
                self._tell(
                    f"step {step_id!r} can't list its partitions: {name_of(cause)}; asking again "
                    f"in {interval_s:g} s"
                )
                continue
            if self._over.is_set():
                return
            new = [name for name in names if name not in self._known[step_id]]
            if new:
                self._known[step_id].update(new)
                self.found.append({step_id: {name: self._next_worker() for name in new}})
                self._tell(f"step {step_id!r} has new partitions: {', '.join(new)}")
                self._waiter.wake()

    def _next_worker(self) -> WorkerIndex:
        """The one that has the fewest partitions."""
        with self._dealing:
            worker = min(self._loads, key=lambda index: (self._loads[index], index))
            self._loads[worker] += 1
            return worker

    def stop(self) -> None:
        """Look no more."""
        self._over.set()


@contextlib.contextmanager
def discovering(
    planned: Plan, deal: Deal, waiter: Waiter, tell: Callable[[str], None]
) -> Generator[Discovery | None]:
    """Look for new partitions for as long as this lasts; None if no source wants that.

    Args as of `Discovery`.
    """
    sources = {
        step.step_id: step.kernel.source
        for step in planned.steps
        if isinstance(step.kernel, InputKernel)
        and getattr(step.kernel.source, "discovery_interval", None) is not None
    }
    if not sources:
        yield None
        return
    for step_id, source in sources.items():
        if source.discovery_interval <= timedelta(0):
            msg = (
                f"`discovery_interval` of the source of step {step_id!r} must be above zero; got "
                f"{source.discovery_interval}"
            )
            raise EngineRuntimeError(msg, step_id=step_id)
    discovery = Discovery(sources, deal, planned.workers, waiter, tell)
    discovery.start()
    try:
        yield discovery
    finally:
        discovery.stop()
