"""Which calls may end the process that makes them: what a step with tasks knows, and leaves behind.

Where calls are made in the worker's own process, one that ends it takes the worker along, and all
that it knew. What was being made is therefore kept in the store's folder
(`engine.recovery._running_calls`), and a record that was there at some deaths in a row is called
alone. If that is the end of the process once more, the record is known to be the cause.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import WorkerProcessError
from engine.recovery._running_calls import CallRows, Suspect, mark_of


class CallWatch:
    """The calls of one step on one worker.

    Args:
        rows: Where they are written down.
        known: The suspects from earlier runs.
        deaths_max: How many deaths a record may be suspected of.
        after_death: A worker with the step has died since the last run that ended in order.
    """

    def __init__(
        self,
        rows: CallRows,
        known: dict[int, Suspect],
        deaths_max: int,
        *,
        after_death: bool = False,
    ) -> None:
        self.known = known
        """Empty, mostly."""
        self.after_death = after_death
        self._rows = rows
        self._deaths_max = deaths_max
        self._alone_from = max(1, deaths_max - 1)

    def suspect(self, encoded: Sequence[bytes]) -> Suspect | None:
        """The worst that is known of some records."""
        found = [s for data in encoded if (s := self.known.get(mark_of(data))) is not None]
        return max(found, default=None)

    def goes_alone(self, suspect: Suspect) -> bool:
        """Whether the call is to be made while no other is."""
        return suspect.deaths >= self._alone_from

    def verdict(self, suspect: Suspect) -> WorkerProcessError | None:
        """Why the call is not to be made any more; None if it is."""
        if not suspect.alone or suspect.deaths < self._deaths_max:
            return None
        msg = (
            f"the worker's process died {suspect.deaths} times while it made this call, the last "
            "time when it made no other"
        )
        return WorkerProcessError(msg)

    def begin(self, encoded: Sequence[bytes], deaths: int, *, alone: bool) -> list[int]:
        """Write down that a call begins; gives what `end` needs."""
        return self._rows.begin(map(mark_of, encoded), deaths, alone=alone)

    def end(self, rows: list[int], encoded: Sequence[bytes]) -> None:
        """A call has ended, and its process hasn't."""
        self._rows.end(rows)
        if self.known:
            for data in encoded:
                self.known.pop(mark_of(data), None)
