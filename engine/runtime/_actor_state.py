"""The actors of one step on one worker: those in memory, those in the store, and their rows.

An actor has a row under its address: the plain key for one of the step's first class, else its
`Ref`. What waits at a barrier is in rows beside it (`engine.runtime._mail_rows`). Such rows count
as due at once, so a run finds them by what is due, without looking at all actors.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from engine.errors import InconsistentPartitionsError, UserCodeError
from engine.operators._state import KeyedState, StateChanges, StateForm
from engine.operators._timers import Timers
from engine.operators.actors._actor import Actor, Blueprint
from engine.operators.actors._life import Life
from engine.operators.actors._mail import Mail, Row
from engine.operators.actors._ref import Ref
from engine.operators.actors._versions import present_fields
from engine.runtime._idle import Idle
from engine.runtime._mail_rows import (
    ROW_MAILS,
    Spilled,
    address_of,
    decode_mails,
    encode_mails,
    numbered,
    row_key,
)

Mailbox: TypeAlias = list[Mail] | deque[Mail]
"""What waits for an actor, in its order. Long ones are deques."""
MAIL_DUE_S: Final = 0.0
"""When a row of mails is due."""
KEPT_MAX: Final = 20_000
"""If more mails than this are in memory at a barrier, all of them leave it."""


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
        self.blueprints = blueprints
        """By name, the first one first."""

    def to_stored(self, state: Actor) -> Any:
        """The name of the class, the state and its version, and what else there is of the actor.

        It is flat, since the store is fastest with tuples of plain values.

        Raises:
            UserCodeError: A handler has put something else in the place of the state.
        """
        life: Life | None = state.life
        blueprint = state.blueprint
        try:
            values = blueprint.images.values_of(state.state)
        except AttributeError as ex:
            wanted = blueprint.cls.State.__qualname__
            msg = f"`self.state` of a {blueprint.name} must be a `{wanted}`; it is {state.state!r}"
            raise UserCodeError(msg) from ex
        row = (blueprint.name, blueprint.version, blueprint.field_names, *values)
        return row if life is None else (*row, life.row())

    def from_stored(self, key: Any, stored: Any) -> Actor:
        """The actor that a row was made of."""
        name, version, values, life = parts_of(stored)
        blueprint = self.blueprints.get(name)
        if blueprint is None:
            msg = (
                f"the store has an actor of class {name!r} with key {key!r}, and the step has no "
                f"such class; it has {', '.join(self.blueprints)}"
            )
            raise InconsistentPartitionsError(msg)
        first = next(iter(self.blueprints))
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

    What waits is saved at each barrier. When much of it is in memory, or memory is short, all of
    it leaves memory then, and comes back a turn's worth at a time.

    Args:
        form: How they are stored.
        first: The name of the class whose actors have plain keys for addresses.
        step_id: The step, for errors.
    """

    def __init__(self, form: ActorForm, first: str, step_id: str) -> None:
        super().__init__()
        self.form: StateForm = form
        self._restored = form.restored
        self.alarms = form.alarms
        """When each actor has something due."""
        self.mail: dict[Any, Mailbox] = {}
        """What waits in memory, by address; empty only for those with mails in the store alone."""
        self.spilled: dict[Any, Spilled] = {}
        """What waits in the store alone, by address; it comes before what is in `mail`."""
        self.spilled_mails = 0
        """How many mails are in the store alone."""
        self.requests: dict[tuple[Any, int], Mail] = {}
        """The tasks that are under way, by the address of the actor and their number."""
        self.idle = Idle(form.blueprints.values())
        """Those that may be put away before long."""
        self.released: dict[Any, None] = {}
        """Addresses of those that were put away, and leave memory at the next barrier."""
        self.kept_mails = 0
        """How many mails were in memory after the last barrier."""
        self.epochs = 0
        """How many were saved in this run."""
        self._handled: dict[tuple[Any, Row], None] = {}
        """Rows with mails that wait no more, since the last barrier."""
        self._first = first
        self._step_id = step_id
        self._next_number = 0

    # Rows

    def row_of(self, address: Any, mail: Mail) -> tuple[Mail, Any]:
        """A mail with a row of its own, and the key of that row."""
        row = self._new_row(1)
        (mail,) = numbered([mail], row)
        return mail, row_key(address, self._first, row)

    def _new_row(self, mails: int) -> Row:
        number = self._next_number
        self._next_number = number + 1
        return number, mails

    def drop_row(self, address: Any, row: Row) -> None:
        """A mail that is in a row waits no more."""
        self._handled[address, row] = None

    def encoded(self, address: Any, mails: Sequence[Mail]) -> bytes:
        """The value of a row."""
        return encode_mails(mails, self._step_id, address)

    def end_task(self, address: Any, number: int) -> None:
        """A task isn't under way any more, or nobody waits for it."""
        mail = self.requests.pop((address, number), None)
        if mail is not None and mail[4] is not None:
            self.drop_row(address, mail[4])

    def barrier(self) -> StateChanges:
        """Also what waits, and tasks: each mail goes with the epoch in which it came."""
        self.epochs += 1
        changes = super().barrier()
        self._let_go()
        for address, mails in self.mail.items():
            self._take_out(address, mails)
        rows: dict[Any, bytes] = {}
        gone = self._rewrite(rows)
        kept = 0
        for address, mails in self.mail.items():
            if mails:
                self._write(address, mails, rows)
                kept += len(mails)
        for address, spilled in self.spilled.items():
            if spilled.front:
                self._write_front(address, spilled, rows)
                kept += len(spilled.front)
        self._write_requests(rows)
        self.kept_mails = kept
        if kept > KEPT_MAX:
            self._spill()
        due_s = [*(changes.due_s or [None] * len(changes.keys)), *[MAIL_DUE_S] * len(rows)]
        return StateChanges(
            [*changes.keys, *rows],
            [*changes.stored, *rows.values()],
            due_s,
            [*changes.gone, *(key for key in gone if key not in rows)],
        )

    def _take_out(self, address: Any, box: Mailbox) -> None:
        """Have all mails of a mailbox get new rows from the first one on that is in none.

        What came from other workers may have rows behind it, and rows are in the order of numbers.
        """
        mails = list(itertools.dropwhile(_is_saved, box))
        if not any(map(_is_saved, mails)):
            return
        saved = list(itertools.takewhile(_is_saved, box))
        box.clear()
        box.extend(saved)
        box.extend(self._without_rows(address, mails))

    def _without_rows(self, address: Any, mails: Iterable[Mail]) -> Iterator[Mail]:
        """Mails that are to get new rows."""
        for mail in mails:
            if mail[4] is not None:
                self.drop_row(address, mail[4])
            yield (*mail[:4], None)

    def _rewrite(self, rows: dict[Any, bytes]) -> list[Any]:
        """Write rows anew of which some mails wait no more; gives the keys of the old ones."""
        handled, self._handled = self._handled, {}
        by_address: dict[Any, set[Row]] = {}
        for address, row in handled:
            by_address.setdefault(address, set()).add(row)
        for address, old in by_address.items():
            spilled = self.spilled.get(address)
            boxes = [self.mail.get(address), None if spilled is None else spilled.front]
            for box in boxes:
                left: dict[Row, list[Mail]] = {}
                for mail in box or ():
                    if mail[4] in old:
                        left.setdefault(mail[4], []).append(mail)
                if left and box is not None:
                    self._renumber(address, box, left, rows)
        return [row_key(address, self._first, row) for address, row in handled]

    def _renumber(
        self, address: Any, box: Mailbox, left: dict[Row, list[Mail]], rows: dict[Any, bytes]
    ) -> None:
        """Give mails of rows that have become shorter a row with the same number."""
        mails = list(box)
        for old, some in left.items():
            row = old[0], len(some)
            rows[row_key(address, self._first, row)] = self.encoded(address, some)
            mails = [(*mail[:4], row) if mail[4] == old else mail for mail in mails]
        box.clear()
        box.extend(mails)

    def _write(self, address: Any, box: Mailbox, rows: dict[Any, bytes]) -> None:
        """Write the mails of a mailbox that are in no row, which are its last ones."""
        fresh: list[Mail] = []
        while box and not _is_saved(box[-1]):
            fresh.append(box.pop())
        fresh.reverse()
        for at in range(0, len(fresh), ROW_MAILS):
            some = fresh[at : at + ROW_MAILS]
            row = self._new_row(len(some))
            rows[row_key(address, self._first, row)] = self.encoded(address, some)
            box.extend(numbered(some, row))

    def _write_front(self, address: Any, spilled: Spilled, rows: dict[Any, bytes]) -> None:
        """Write mails that are in no row, before those that are in the store alone."""
        front = spilled.front
        if front[0][4] is not None:
            return
        spilled.front = []
        starts = range(0, len(front), ROW_MAILS)
        number = spilled.rows[0][0] - len(starts)
        for at in starts:
            some = front[at : at + ROW_MAILS]
            row = number, len(some)
            number += 1
            rows[row_key(address, self._first, row)] = self.encoded(address, some)
            spilled.front += numbered(some, row)

    def _write_requests(self, rows: dict[Any, bytes]) -> None:
        """Write the tasks that are in no row: each in one of its own, of no mails that wait."""
        for (address, number), mail in self.requests.items():
            if mail[4] is None:
                row = self._new_row(0)
                rows[row_key(address, self._first, row)] = self.encoded(address, [mail])
                self.requests[address, number] = (*mail[:4], row)

    def waiting(self, address: Any) -> int:
        """How many mails wait for an actor."""
        mails, spilled = len(self.mail.get(address, ())), self.spilled.get(address)
        if spilled is not None:
            mails += len(spilled.front) + sum(row[1] for row in spilled.rows)
        return mails

    # What is in the store alone

    def rotate(self) -> None:
        """Make room in memory, also of what waits."""
        super().rotate()
        self._spill()
        self.idle.keep(self.knows)

    def release(self, address: Any) -> None:
        """Have an actor leave memory at the next barrier, unless it is used before."""
        if self.tracked:
            self.released[address] = None

    def _let_go(self) -> None:
        """Forget actors that are to leave memory, which are saved."""
        if self.released:
            self._all_here = False
            for address in self.released:
                self._restored.discard(address)
                for states in self._memory():
                    states.pop(address, None)
            self.alarms.forget(self.released)
            self.released.clear()

    def _spill(self) -> None:
        """Forget all mails in memory, which are saved."""
        for address, box in self.mail.items():
            spilled = self.spilled.get(address)
            if not box and (spilled is None or not spilled.front):
                continue
            if spilled is None:
                spilled = self.spilled[address] = Spilled()
            self.spilled_mails += len(box) + len(spilled.front)
            spilled.rows = [*_rows_in(spilled.front), *spilled.rows, *_rows_in(box)]
            spilled.front = []
            if box:
                self.mail[address] = []
        self.kept_mails = 0

    def put_front(self, address: Any, mails: list[Mail]) -> None:
        """Have mails of the present turn come next, before all that waits for the actor."""
        spilled = self.spilled.get(address)
        behind = self.mail.get(address, ()) if spilled is None else spilled.front
        saved = any(map(_is_saved, mails)) or (behind and _is_saved(behind[0]))
        box = behind if isinstance(behind, deque) else deque(behind)
        box.extendleft(reversed(mails))
        if saved and not _is_saved(box[0]):
            # Rows are in the order of their numbers, so all of them get new ones.
            box = deque(self._without_rows(address, box))
        if spilled is None:
            self.mail[address] = box
        else:
            spilled.front = list(box)

    def fetch(self, addresses: Iterable[Any], most: int) -> None:
        """Bring mails to memory that are in the store alone, about so many at most.

        Args:
            addresses: Of those whose turn comes next; for others there is nothing to do.
            most: When it is enough; some of the first one's in any case.
        """
        wanted: list[tuple[Any, Row]] = []
        for address in addresses:
            spilled = self.spilled.get(address)
            if spilled is None or spilled.front:
                continue
            while spilled.rows and most > 0:
                row = spilled.rows.pop(0)
                most -= row[1]
                wanted.append((address, row))
            if most <= 0:
                break
        self._read(wanted)

    def _read(self, wanted: list[tuple[Any, Row]]) -> None:
        assert self._stored is not None  # noqa: S101
        keys = [row_key(address, self._first, row) for address, row in wanted]
        for (address, row), value in zip(wanted, self._stored.load_many(keys), strict=True):
            mails = decode_mails(value, row, self._step_id, address)
            self.spilled[address].front += mails
            self.spilled_mails -= len(mails)

    def take_spilled(self, address: Any) -> list[Mail]:
        """Bring back all mails of an actor that were in the store alone, for good."""
        spilled = self.spilled.get(address)
        if spilled is None:
            return []
        rows, spilled.rows = spilled.rows, []
        self._read([(address, row) for row in rows])
        del self.spilled[address]
        return spilled.front

    def restore(self, keys: Iterable[Any]) -> Iterator[Any]:
        """Go on with what an earlier run has saved; gives whom mails are for, in their order.

        Args:
            keys: Of rows of mails and tasks. Only tasks are read.
        """
        found = [address_of(key, self._first) for key in keys]
        for address, row in sorted(found, key=lambda each: each[1][0]):
            self._next_number = max(self._next_number, row[0] + 1)
            if not row[1]:
                self._restore_request(address, row)
                continue
            if address not in self.spilled:
                self.spilled[address] = Spilled()
                self.mail[address] = []
                yield address
            self.spilled[address].rows.append(row)
            self.spilled_mails += row[1]

    def _restore_request(self, address: Any, row: Row) -> None:
        assert self._stored is not None  # noqa: S101
        value = self._stored.load(row_key(address, self._first, row))
        (mail,) = decode_mails(value, row, self._step_id, address)
        assert mail[3] is not None  # noqa: S101
        self.requests[address, mail[3]] = mail


def _is_saved(mail: Mail) -> bool:
    return mail[4] is not None


def _rows_in(mails: Iterable[Mail]) -> Iterator[Row]:
    """The rows of mails that lie one after the other, each once."""
    last: Row | None = None
    for mail in mails:
        row = mail[4]
        if row is not last and row is not None:
            last = row
            yield row


def parts_of(row: tuple[Any, ...]) -> tuple[str, int, dict[str, Any], tuple[Any, ...] | None]:
    """The name of the class, the version and fields of the state, and the row of the life."""
    names: list[str] = row[2].split(",") if row[2] else []
    end = 3 + len(names)
    values = dict(zip(names, row[3:end], strict=True))
    return row[0], row[1], values, row[end] if len(row) > end else None


def _plain_key(address: Any) -> Any:
    return address[0] if address.__class__ is Ref else address


def is_mail_row(key: Any) -> bool:
    """Whether a key is that of a row of mails, not of an actor's."""
    return is_part(key) and isinstance(key[2], tuple)


def is_part(key: Any) -> bool:
    """Whether a key stands for a `Ref` or for mails, and isn't a user's: those have no None."""
    return isinstance(key, tuple) and key[1:2] == (None,)
