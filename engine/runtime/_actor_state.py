"""The actors of one step on one worker: those in memory, those in the store, and their rows.

An actor has a row under its address: the plain key for one of the step's first class, else its
`Ref`. Each mail that waits at a barrier has a row of its own, which is in the key group of its
actor, so that both go to the same worker if there are more or fewer of them. Such rows count as due
at once, so a run finds them by what is due, without looking at all actors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeAlias

from engine.errors import InconsistentPartitionsError
from engine.operators._state import KeyedState, StateChanges, StateForm
from engine.operators._timers import Timers
from engine.operators.actors._actor import Actor, Blueprint
from engine.operators.actors._life import Life, mail_of, plain_mail
from engine.operators.actors._mail import Mail
from engine.operators.actors._ref import Ref
from engine.operators.actors._versions import present_fields

Mailbox: TypeAlias = list[Mail] | deque[Mail]
"""What waits for an actor, in its order. Long ones are deques."""
MAIL_DUE_S: Final = 0.0
"""When the row of a mail is due."""


class ActorForm(StateForm):
    """How actors are stored.

    Args:
        blueprints: The classes of the step, by name, the first one first.
    """

    def __init__(self, blueprints: dict[str, Blueprint]) -> None:
        self.timers = self.alarms = Timers()
        """When each actor has something due."""
        self.restored: set[Any] = set()
        """Addresses of actors that were read and want to know it."""
        self._blueprints = blueprints

    def to_stored(self, state: Actor) -> Any:
        """The name of the class, the state and its version, and what else there is of the actor.

        It is flat, since the store is fastest with tuples of plain values.
        """
        life: Life | None = state.life
        blueprint = state.blueprint
        images = blueprint.images
        names = blueprint.field_names
        row = (blueprint.name, blueprint.version, names, *images.values_of(state.state))
        return row if life is None else (*row, life.row())

    def from_stored(self, key: Any, stored: Any) -> Actor:
        """The actor that a row was made of."""
        name, version, values, life = parts_of(stored)
        blueprint = self._blueprints.get(name)
        if blueprint is None:
            msg = (
                f"the store has an actor of class {name!r} with key {key!r}, and the step has no "
                f"such class; it has {', '.join(self._blueprints)}"
            )
            raise InconsistentPartitionsError(msg)
        first = next(iter(self._blueprints))
        if (name == first) is (key.__class__ is Ref):
            msg = (
                f"the store has an actor of class {name!r} with key {key!r}, saved when another "
                f"class was the step's first one, which is {first!r} now; give the classes in "
                "their old order"
            )
            raise InconsistentPartitionsError(msg)
        actor = blueprint.new()
        fields: dict[str, Any] = actor.state.__dict__
        fields.update(present_fields(blueprint, Ref(name, _plain_key(key)), version, values))
        if life is not None:
            actor.life = Life.of_row(life)
            self.alarms.set(key, actor.life.due_s())
        if blueprint.hears_signals:
            self.restored.add(key)
        return actor


class ActorState(KeyedState):
    """Actors by address, and what waits for them.

    Args:
        form: How they are stored.
        first: The name of the class whose actors have plain keys for addresses.
    """

    def __init__(self, form: ActorForm, first: str) -> None:
        super().__init__()
        self.form = form
        self.alarms = form.alarms
        """When each actor has something due."""
        self.mail: dict[Any, Mailbox] = {}
        """What waits, by address; none is empty."""
        self.requests: dict[tuple[Any, int], Mail] = {}
        """The tasks that are under way, by the address of the actor and their number."""
        self.gone_rows: list[Any] = []
        """Of mails that wait no more, since the last barrier."""
        self.epochs = 0
        """How many were saved in this run."""
        self._first = first
        self._next_number = 0

    def _row_key(self, address: Any, number: int) -> Any:
        if address.__class__ is Ref:
            return address[0], None, (address[2], number)
        return address, None, (self._first, number)

    def row_of(self, address: Any, mail: Mail) -> tuple[Mail, Any]:
        """A mail with the number of a row of its own, and the key of that row."""
        number = self._next_number
        self._next_number = number + 1
        kind, message, sender, ask, _ = mail
        return (kind, message, sender, ask, number), self._row_key(address, number)

    def drop_row(self, address: Any, number: int) -> None:
        """A mail that has a row waits no more."""
        self.gone_rows.append(self._row_key(address, number))

    def end_task(self, address: Any, number: int) -> None:
        """A task isn't under way any more, or nobody waits for it."""
        mail = self.requests.pop((address, number), None)
        if mail is not None and mail[4] is not None:
            self.drop_row(address, mail[4])

    def barrier(self) -> StateChanges:
        """Also what waits, and tasks: each mail goes with the epoch in which it came."""
        self.epochs += 1
        changes = super().barrier()
        keys, rows = changes.keys, changes.stored
        actors = len(keys)
        for address, mails in self.mail.items():
            numbered: list[Mail] = []
            for mail in mails:
                if mail[4] is None:
                    mail, key = self.row_of(address, mail)  # noqa: PLW2901 - with its number
                    keys.append(key)
                    rows.append(plain_mail(mail))
                numbered.append(mail)
            mails.clear()
            mails.extend(numbered)
        for (address, number), mail in self.requests.items():
            if mail[4] is None:
                mail, key = self.row_of(address, mail)  # noqa: PLW2901 - with its number
                self.requests[address, number] = mail
                keys.append(key)
                rows.append(plain_mail(mail))
        due_s = [*(changes.due_s or [None] * actors), *[MAIL_DUE_S] * (len(keys) - actors)]
        gone, self.gone_rows = [*changes.gone, *self.gone_rows], []
        return StateChanges(keys, rows, due_s, gone)

    def waiting(self, rows: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Mail]]:
        """The mails that an earlier run has saved, each with its address, in their order.

        Args:
            rows: Keys and what is stored for them.
        """
        for (key, _, (name, number)), row in sorted(rows, key=lambda found: found[0][2][1]):
            self._next_number = number + 1
            yield key if name == self._first else Ref(name, key), mail_of(row, number)


def parts_of(row: tuple[Any, ...]) -> tuple[str, int, dict[str, Any], tuple[Any, ...] | None]:
    """The name of the class, the version and fields of the state, and the row of the life."""
    names: list[str] = row[2].split(",") if row[2] else []
    end = 3 + len(names)
    values = dict(zip(names, row[3:end], strict=True))
    return row[0], row[1], values, row[end] if len(row) > end else None


def _plain_key(address: Any) -> Any:
    return address[0] if address.__class__ is Ref else address


def is_mail_row(key: Any) -> bool:
    """Whether a key is that of a mail's row, not of an actor's."""
    return is_part(key) and isinstance(key[2], tuple)


def is_part(key: Any) -> bool:
    """Whether a key stands for a `Ref` or for a mail, and isn't a user's: those have no None."""
    return isinstance(key, tuple) and key[1:2] == (None,)
