"""`dead_letters`: the records that steps went on without, as a stream to be written to some sink.

Such a step says ``.on_error("dead_letter")``, or its flow does. The planner
(`engine.runtime._policies`) connects all of them with this one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from engine.dataflow import Dataflow, Stream, operator
from engine.dataflow._operator import new_stream
from engine.operators._kernels import DeadLettersKernel


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that a step has left out, and why.

    Attributes:
        letter_id: Names the letter among those of its flow; with a recovery store no other one ever
            has the same.
        step_id: The step that left it out; of an operator that is composed of others, the one
            within, as in ``flow.best.reduce_final``.
        record: What the step was given, as it is now: a function that changes a record before it
            raises has changed this one.
        key: Its key, where the step takes `(key, value)` records; else None.
        error_type: The exception's class, as in ``builtins.ValueError``.
        message: What the exception says.
        traceback: As Python prints it, from the user's function on.
        attempts: How often it was tried.
        source: The source partition that the record's batch was read from, as
            ``step_id/partition``; None where that isn't known: behind an exchange of records
            between workers, in steps that kept the record for a while.
        position: Where that partition was after the batch, as its snapshots say it; None likewise.
        epoch: The epoch that the record belongs to.
        worker: The worker on which it failed.
        at: When, in UTC.
        port: Which of the step's inputs the record came by, 0 for the first: joins have several.
    """

    letter_id: str
    step_id: str
    record: Any
    key: Any
    error_type: str
    message: str
    traceback: str
    attempts: int
    source: str | None
    position: Any
    epoch: int
    worker: int
    at: datetime
    port: int = 0

    def to_json(self) -> str:
        """One line of JSON with all of it. What JSON doesn't know is shown as `repr` does.

        >>> from datetime import UTC, datetime
        >>> at = datetime(2024, 1, 1, tzinfo=UTC)
        >>> letter = DeadLetter(
        ...     *("1-0-0-1", "f.parse", "two", None, "builtins.ValueError", "bad", ""),
        ...     *(1, None, None, 1, 0, at),
        ... )
        >>> letter.to_json()[:58]
        '{"letter_id": "1-0-0-1", "step_id": "f.parse", "record": "'
        """
        fields: dict[str, Any] = {
            "letter_id": self.letter_id,
            "step_id": self.step_id,
            "record": _json_able(self.record),
            "key": _json_able(self.key),
            "error_type": self.error_type,
            "message": self.message,
            "traceback": self.traceback,
            "attempts": self.attempts,
            "source": self.source,
            "position": _json_able(self.position),
            "epoch": self.epoch,
            "worker": self.worker,
            "at": self.at.isoformat(),
            "port": self.port,
        }
        return json.dumps(fields)


def _json_able(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, default=shown_whole))
    except Exception:  # noqa: BLE001 - keys of other types, circles; users' classes may raise anything
        return shown_whole(value)


def shown_whole(value: object) -> str:
    """As `repr`, whatever that raises."""
    try:
        return repr(value)
    except Exception as broken:  # noqa: BLE001 - a user's __repr__ must not hide the letter
        return f"<{type(value).__name__}, whose repr raises {type(broken).__name__}>"


@operator(core=True, kernel=lambda _step, _workers: DeadLettersKernel())
def dead_letters(step_id: str, flow: Dataflow) -> Stream[DeadLetter]:
    """Emit the records that steps of this flow have left out, with the reason.

    These are steps that say ``.on_error("dead_letter")``, or all that can if the flow says so by
    ``Dataflow(..., on_error="dead_letter")``; but steps that work on the letters themselves fail at
    an error, if the flow says that. The letters belong to the epoch of their records: they reach a
    sink as often as it promises, exactly once if it can. Letters of one step on one worker keep
    their order. Keeps no state.

    Without this operator letters are kept in the recovery store, where
    ``python -m engine.dlq`` shows them.

    Args:
        step_id: Name of the step.
        flow: The dataflow.

    Returns:
        Stream of letters.

    Raises:
        FlowError: No step of the flow has letters, or one whose work is on letters has: raised when
            the flow is started.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out, bad = Dataflow("dead_letters_example"), [], []
    >>> s = op.input("in", flow, TestingSource(["1", "two", "3"]))
    >>> s = op.map("parse", s, int).on_error("dead_letter")
    >>> op.output("out", s, TestingSink(out))
    >>> letters = op.dead_letters("letters", flow)
    >>> shown = op.map("show", letters, lambda letter: (letter.record, letter.error_type))
    >>> op.output("bad", shown, TestingSink(bad))
    >>> run_main(flow)
    >>> out, bad
    ([1, 3], [('two', 'builtins.ValueError')])
    """
    return new_stream(step_id, flow)
