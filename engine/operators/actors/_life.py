"""What an actor has besides its state: timers, asks, stash, family. Saved in the row of the actor.

Most actors have none of it. A transaction that changes it copies it first (`Life.copy`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from engine.operators.actors._mail import Mail, Row
from engine.operators.actors._ref import Ref

FIRED_S = math.inf
"""When an ask is due whose timeout lies in the mailbox already."""

Ask: TypeAlias = tuple[str, str | None, float, Any]
"""Names of the methods for the answer and for none, when it is due, and what was asked."""


@dataclass(slots=True)
class Life:
    """What an actor has besides its state."""

    behaviour: str | None = None
    """The method that takes all messages, in place of the handlers."""
    timers: dict[str, tuple[float, Any]] = field(default_factory=dict[str, tuple[float, Any]])
    """By name: when, in seconds since 1970 UTC, and which message."""
    asks: dict[int, Ask] = field(default_factory=dict[int, Ask])
    """Those without an answer, by number."""
    next_ask: int = 0
    """The number of the next ask or task."""
    stash: list[Mail] = field(default_factory=list[Mail])
    parent: Ref | None = None
    children: dict[Ref, None] = field(default_factory=dict[Ref, None])
    spawned: int = 0
    """How many children were named by number."""
    watchers: dict[Ref, None] = field(default_factory=dict[Ref, None])
    tries: int = 0
    """How often the first message in the mailbox has failed."""
    failures: list[float] = field(default_factory=list[float])
    """When the last ones were, if there may be so many in a time."""
    tasks: dict[int, tuple[str, str | None]] = field(
        default_factory=dict[int, tuple[str, str | None]]
    )
    """Those that haven't ended, by number: names of the methods for result and exception."""

    def copy(self) -> Life:
        """The same, not changed by what happens to this one."""
        return Life(
            self.behaviour,
            self.timers.copy(),
            self.asks.copy(),
            self.next_ask,
            self.stash.copy(),
            self.parent,
            self.children.copy(),
            self.spawned,
            self.watchers.copy(),
            self.tries,
            self.failures.copy(),
            self.tasks.copy(),
        )

    def due_s(self) -> float | None:
        """When the first of its timers and asks is due."""
        due_s = [at_s for at_s, _ in self.timers.values()]
        due_s += [ask[2] for ask in self.asks.values() if ask[2] < FIRED_S]
        return min(due_s, default=None)

    def row(self) -> tuple[Any, ...]:
        """What to store."""
        return (
            self.behaviour,
            self.timers,
            self.asks,
            self.next_ask,
            [plain_mail(mail) for mail in self.stash],
            plain(self.parent),
            [plain(child) for child in self.children],
            self.spawned,
            [plain(watcher) for watcher in self.watchers],
            self.tries,
            self.failures,
            self.tasks,
        )

    @staticmethod
    def of_row(row: tuple[Any, ...]) -> Life:
        """What `row` was made of."""
        behaviour, timers, asks, next_ask, stash, parent, children, spawned, watchers = row[:9]
        return Life(
            behaviour,
            timers,
            asks,
            next_ask,
            [mail_of(mail) for mail in stash],
            ref_of(parent),
            dict.fromkeys(Ref(name, key) for key, name in children),
            spawned,
            dict.fromkeys(Ref(name, key) for key, name in watchers),
            *row[9:],
        )


def plain(ref: Ref | None) -> tuple[Any, str] | None:
    """A ref for a row."""
    return None if ref is None else (ref[0], ref[2])


def ref_of(row: tuple[Any, str] | None) -> Ref | None:
    """What `plain` was given."""
    return None if row is None else Ref(row[1], row[0])


def plain_mail(mail: Mail) -> tuple[Any, ...]:
    """A mail for a row."""
    kind, message, sender, number, _ = mail
    return kind, message, plain(sender), number


def mail_of(plain: tuple[Any, ...], row: Row | None = None) -> Mail:
    """The mail that `plain_mail` was given.

    Args:
        plain: What it gave.
        row: The row that it is in, if it isn't in that of its actor.
    """
    kind, message, sender, ask = plain
    return kind, message, ref_of(sender), ask, row
