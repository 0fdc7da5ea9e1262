"""Which message to an actor ends the worker's process: what a step knows, and leaves behind.

A handler that ends the process takes the worker along, and all that it knew, so the message comes
again in the next run. To write each message down before it is handled would cost about as much as
to handle it. So nothing is written while all goes well: the file of rows that a worker leaves
behind (`engine.recovery._running_calls`) only says that it has died. The next run begins with
writing each message down, and goes on with that for some epochs, which is well beyond the message
at which the one before it died. Handlers run one at a time, so the message found in the file at
the next death is the one.
"""

from __future__ import annotations

import pickle
from typing import Final

from engine.errors import WorkerProcessError
from engine.operators.actors._mail import Mail
from engine.operators.actors._ref import Ref
from engine.runtime._call_watch import CallWatch

EPOCHS: Final = 10
"""So many epochs of a run that follows a death have their messages written down."""


class TurnWatch:
    """The messages of one step with actors on one worker, in a run that follows a death.

    Args:
        calls: Where they are written down, and what is known of those of earlier runs.
    """

    def __init__(self, calls: CallWatch) -> None:
        self._calls = calls
        self._encoded: list[bytes] = []
        """Of the message that is being handled."""
        self._rows: list[int] = []
        self._refused = False

    def enter(self, ref: Ref, mail: Mail, deaths_max: int) -> None:
        """A message is about to be handled. The one before it hasn't ended the process.

        Args:
            ref: Whom it is for.
            mail: The message.
            deaths_max: How many times it may end the process.

        Raises:
            WorkerProcessError: It has done so too often, and is not to be handled.
        """
        self.leave()
        encoded, calls = [_encoded(ref, mail)], self._calls
        suspect = calls.suspect(encoded)
        deaths = 0 if suspect is None else suspect.deaths
        if suspect is not None and suspect.alone and deaths >= deaths_max:
            self._refused = True
            times = "once" if deaths == 1 else f"{deaths} times"
            msg = f"the worker's process died {times} while this message was handled"
            raise WorkerProcessError(msg)
        self._encoded, self._rows = encoded, calls.begin(encoded, deaths, alone=True)

    def leave(self) -> None:
        """The message was handled, if there is one, and its process lives."""
        if self._encoded:
            self._calls.end(self._rows, self._encoded)
            self._encoded = []

    def is_over(self, epochs: int) -> bool:
        """Whether there is nothing to watch for any more, after so many epochs of the run."""
        # What was refused may come again.
        return epochs > EPOCHS and not self._refused


def _encoded(ref: Ref, mail: Mail) -> bytes:
    kind, message = mail[:2]
    try:
        return pickle.dumps((ref, kind, message), 5)
    except Exception:  # noqa: BLE001 - a class that only its own function knows, or whatever
        return f"{ref!r} {kind} {type(message).__qualname__}".encode()
