"""A store of one step in memory, for actors without a worker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.runtime._actor_state import is_mail_row
from engine.runtime._actor_table import ActorTable


class Shelf:
    """What was saved, by key."""

    def __init__(self) -> None:
        self.rows: dict[Any, Any] = {}
        self.read: list[Any] = []
        """Keys that were asked for."""

    def load(self, key: Any) -> Any:
        return self.load_many([key])[0]

    def load_many(self, keys: list[Any]) -> list[Any]:
        self.read += keys
        return [self.rows.get(key) for key in keys]

    def is_empty(self) -> bool:
        return not self.rows

    def keys(self) -> Iterable[Any]:
        return list(self.rows)

    @property
    def mail_rows(self) -> list[Any]:
        """The keys of rows of mails."""
        return [key for key in self.rows if is_mail_row(key)]

    def take(self, table: ActorTable) -> None:
        """Save what an epoch did."""
        changes = table.state.barrier()
        assert not {*changes.keys} & {*changes.gone}, "a row is saved and gone"
        self.rows.update(zip(changes.keys, changes.stored, strict=True))
        for key in changes.gone:
            self.rows.pop(key, None)

    def give(self, table: ActorTable) -> None:
        """Have a table go on from what was saved."""
        table.state.attach(self)
        table.boxes.restore(self.mail_rows)


def mails_of(table: ActorTable) -> int:
    """How many mails wait, counted where they are."""
    state = table.state
    fronts = sum(len(spilled.front) for spilled in state.spilled.values())
    rows = sum(row[1] for spilled in state.spilled.values() for row in spilled.rows)
    assert rows == state.spilled_mails
    return sum(map(len, state.mail.values())) + fronts + rows
