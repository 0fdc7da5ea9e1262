"""The dead letters in a store that no job has open: reading them, and asking for what is to come.

What `python -m engine.dlq` does, without its command line. The steps that keep letters are found by
their kind; what a letter holds is the business of whoever asks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from engine.recovery._admin import StorePlace, opened, views
from engine.recovery._letter_requests import Action, LetterRequest, read_requests, write_request
from engine.recovery._manifest import Manifest


@dataclass(frozen=True, slots=True)
class KeptLetter:
    """A letter in a store."""

    letter_id: str
    fields: dict[str, Any]
    """Plain values."""
    asked: Action | None
    """What the next start will do about it."""


def kept_letters(place: StorePlace, kind: str) -> list[KeptLetter]:
    """All letters, oldest first.

    Args:
        place: The store.
        kind: That of steps that keep letters.

    Raises:
        StoreError: The store can't be read.
    """
    with opened(place) as folder:
        return _letters(place, folder.started(), kind)


def _letters(place: StorePlace, manifest: Manifest, kind: str) -> list[KeptLetter]:
    asked: dict[str, Action] = {}
    for request in read_requests(place.disk, place.root).values():
        # Those that drop letters come first, and count.
        for letter_id in request.letter_ids:
            asked.setdefault(letter_id, request.action)
    steps = [step_id for step_id, entry in manifest.steps.items() if entry.kind == kind]
    found = [
        KeptLetter(letter_id, row.value, asked.get(letter_id))
        for state in views(place, manifest)
        for step_id in steps
        for letter_id, row in state.scan_step(step_id)
    ]
    return sorted(found, key=lambda letter: (letter.fields["at_s"], letter.letter_id))


def ask(place: StorePlace, kind: str, action: Action, letter_ids: Collection[str]) -> list[str]:
    """Have the next start put letters back, or forget them; gives the ids that there are not.

    Nothing is asked for if there are any such.

    Args:
        place: The store.
        kind: That of steps that keep letters.
        action: What to do about them.
        letter_ids: Which.

    Raises:
        StoreError: The store can't be read or written.
    """
    with opened(place) as folder:
        there = {letter.letter_id for letter in _letters(place, folder.started(), kind)}
        unknown = sorted(set(letter_ids) - there)
        if not unknown and letter_ids:
            request = LetterRequest(action, tuple(letter_ids))
            write_request(place.disk, place.root, place.token, request)
        return unknown
