"""Says so when more messages wait for the actors of a step than may, for long, and for whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from engine.runtime._mailboxes import Mailboxes

PATIENCE_S: Final = 10.0
"""After so long it is said for the first time."""
_AGAIN_S: Final = 60.0


class Backlog:
    """What waits for the actors of one step on one worker, watched.

    Args:
        step_id: The step.
        pending_max: How many messages may wait.
        tell: Takes lines for people.
    """

    def __init__(self, step_id: str, pending_max: int, tell: Callable[[str], None]) -> None:
        self._step_id = step_id
        self._pending_max = pending_max
        self._tell = tell
        self._since_s: float | None = None
        self._tell_at_s = 0.0

    def look(self, boxes: Mailboxes, now_s: float) -> None:
        """See how many wait now, by any clock."""
        if boxes.pending <= self._pending_max:
            self._since_s = None
        elif self._since_s is None:
            self._since_s, self._tell_at_s = now_s, now_s + PATIENCE_S
        elif now_s >= self._tell_at_s:
            self._tell_at_s = now_s + _AGAIN_S
            ref, most = boxes.longest()
            self._tell(
                f"step {self._step_id!r} takes no input: for {now_s - self._since_s:.0f} s more "
                f"than {self._pending_max} messages wait for its actors, {boxes.pending} now, and "
                f"{most} of them for {ref!r}"
            )
