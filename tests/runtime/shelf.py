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
        self.due_s: dict[Any, float | None] = {}
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
        assert changes.due_s is not None
        self.due_s.update(zip(changes.keys, changes.due_s, strict=True))
        for key in changes.gone:
            self.rows.pop(key, None)

    def give(self, table: ActorTable) -> None:
        """Have a table go on from what was saved."""
        table.state.attach(self)

        def scan(until_s: float) -> list[tuple[float, Any]]:
            due = [(at_s, key) for key, at_s in self.due_s.items() if key not in self.mail_rows]
            return [(s, k) for s, k in due if s is not None and s <= until_s and k in self.rows]

        table.state.alarms.attach(scan, 0.0)
        table.restore(self.mail_rows)


def mails_of(table: ActorTable) -> int:
    """How many mails wait, counted where they are."""
    state = table.state
    fronts = sum(len(spilled.front) for spilled in state.spilled.values())
    rows = sum(row[1] for spilled in state.spilled.values() for row in spilled.rows)
    assert rows == state.spilled_mails
    return sum(map(len, state.mail.values())) + fronts + rows
