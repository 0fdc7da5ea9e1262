"""Dead letters in the recovery store: the steps that keep them, and that put them back.

Where no step takes a flow's dead letters the planner (`engine.runtime._plan`) adds these: one makes
plain values of each letter, before it goes to another worker; one keeps these as states, by letter.
They are read by ``python -m engine.dlq`` alone. What that asks for comes, at the next start, as
`Replay`s: the keeper forgets the letter, and its record goes to the step that left it out, in one
epoch.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any, NamedTuple

from engine.operators._dead_letters import DeadLetter, shown_whole
from engine.operators._kernels import KeyedKernel, KeyedLogic, StepContext
from engine.operators._state import KeyedState, StateChanges

KEPT_KIND = "dead_letters"
"""What the store calls a step that keeps letters."""


class Replay(NamedTuple):
    """What is to become of a letter that is kept."""

    step_id: str | None
    """The step that it is put back before; None to forget it."""
    record: Any = None
    port: int = 0
    """The input of that step."""


def kept_form(letter: DeadLetter) -> tuple[str, dict[str, Any]]:
    """A letter by its id, in values that any store can hold and anybody can read.

    The record is pickled. One that can't be has only its `repr`, and can't be put back.
    """
    try:
        pickled = pickle.dumps(letter.record, 5)
    except Exception:  # noqa: BLE001 - a user's class may raise anything when it is pickled
        pickled = None
    return letter.letter_id, {
        "step_id": letter.step_id,
        "record": pickled,
        "shown": shown_whole(letter.record),
        "key": None if letter.key is None else shown_whole(letter.key),
        "error_type": letter.error_type,
        "message": letter.message,
        "traceback": letter.traceback,
        "attempts": letter.attempts,
        "source": letter.source,
        "position": None if letter.position is None else shown_whole(letter.position),
        "epoch": letter.epoch,
        "worker": letter.worker,
        "at_s": letter.at.timestamp(),
        "port": letter.port,
    }


def replayed(step_id: str, port: int, batch: list[tuple[str, Replay]]) -> list[Any]:
    """The records that are put back at one input of a step."""
    return [r.record for _, r in batch if r.step_id == step_id and r.port == port]


class _LetterState(KeyedState):
    """Letters are written once and not read by the flow: none stays in memory."""

    def prefetch(self, batch: list[Any]) -> None:
        """No letter was there before."""

    def barrier(self) -> StateChanges:
        """As in `KeyedState`."""
        changes = super().barrier()
        self.rest.clear()
        return changes


@dataclass(frozen=True, slots=True)
class KeepLettersKernel(KeyedKernel):
    """Keeps what comes on its first input, forgets what comes on its second."""

    def new_state(self) -> KeyedState:
        """One that leaves letters to the store."""
        return _LetterState()

    def start(self, step: StepContext) -> KeyedLogic:
        """Begin with none in memory."""
        return _Keeping(step.state)


class _Keeping(KeyedLogic):
    def __init__(self, state: KeyedState) -> None:
        self._state = state

    def on_batch(self, port: int, batch: list[Any]) -> list[Any]:
        state = self._state
        for key, letter in batch:
            if port == 0:
                state.put(key, letter)
            else:
                state.discard(key)
        return []
