"""What workers say to each other about calls of tasks that one of them runs for another.

Each worker numbers the calls that it lends; a step is known by its id. They travel as items of an
edge of their own, like batches: handed over as they are within a process, pickled between two.
"""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from engine.errors import RemoteError, UserCodeError
from engine.operators.tasks._executor import Kind
from engine.runtime._failure import name_of
from engine.runtime._ids import EdgeId

ERRANDS: Final = EdgeId(0xFFFF)
"""The edge that they travel on: no flow has so many."""


class Parcel:
    """A value on its way to another worker: a record, what came of it, or an exception.

    Pickled, it carries the bytes of the value's own pickle, so that whoever gets it can say whose
    value it is that can't be read.

    Args:
        value: What to send.
    """

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        """How to pickle it; raises whatever pickling the value does."""
        if isinstance(self._value, BaseException):
            return _ArrivedError, _packed(self._value)
        return _Arrived, (pickle.dumps(self._value, 5),)

    def open(self) -> Any:
        """The value.

        Raises:
            Exception: It can't be read here.
        """
        return self._value


class _Arrived(Parcel):
    """What has come from another process."""

    __slots__ = ()

    def open(self) -> Any:
        return pickle.loads(self._value)  # noqa: S301 - the peer has proved itself


class _ArrivedError(Parcel):
    """An exception that has come from another process."""

    __slots__ = ("_remote",)

    def __init__(self, data: bytes, remote: RemoteError) -> None:
        super().__init__(data)
        self._remote = remote

    def open(self) -> Any:
        try:
            error: BaseException = pickle.loads(self._value)  # noqa: S301 - as above
        except Exception:  # noqa: BLE001 - of the user's own classes; the text is there
            return self._remote
        error.__cause__ = self._remote
        return error


def _packed(error: BaseException) -> tuple[bytes, RemoteError]:
    kind = type(error)
    lines = "".join(traceback.format_exception(error))
    remote = RemoteError(f"{kind.__module__}.{kind.__qualname__}", _text(error), lines)
    try:
        data = pickle.dumps(error, 5)
    except Exception:  # noqa: BLE001 - of the user's own classes; the text must do
        data = b""
    return data, remote


def _text(error: BaseException) -> str:
    return name_of(error).removeprefix(f"{type(error).__name__}: ")


@dataclass(frozen=True, slots=True)
class Lend:
    """Run a call of mine."""

    step: str
    call: int
    argument: Parcel
    queued: bool
    """The sender knows that it will have to wait; otherwise it is told if that is so."""


@dataclass(frozen=True, slots=True)
class Queued:
    """Your call has to wait."""

    step: str
    call: int


@dataclass(frozen=True, slots=True)
class Taken:
    """Your call, which had to wait, doesn't any more."""

    step: str
    call: int


@dataclass(frozen=True, slots=True)
class Recall:
    """Give my call back if it still waits."""

    step: str
    call: int


@dataclass(frozen=True, slots=True)
class Recalled:
    """I do, and haven't run it."""

    step: str
    call: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Give my call up; I want to hear nothing more of it."""

    step: str
    call: int


@dataclass(frozen=True, slots=True)
class Began:
    """Your call runs."""

    step: str
    call: int
    ago_s: float
    """Since then."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is free here."""

    free: dict[str, int]
    """In parts; less what those take who wait."""
    calls: int
    """How many calls are here, of those that may be lent."""
    seen: int
    """How many calls you have lent me, those told as taken or waiting above."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Your call is over."""

    step: str
    call: int
    kind: Kind
    value: Parcel
    load: Load


AboutStep: TypeAlias = Lend | Queued | Taken | Recall | Recalled | Cancel | Began | Ended
Errand: TypeAlias = AboutStep | Load


def not_sent(what: str, error: Exception) -> UserCodeError:
    """What a call comes to if its record or its result can't get from worker to worker.

    Args:
        what: Which of the two, and of which function.
        error: Why.
    """
    cause = error.__cause__ or error
    hint = "what other processes run must be picklable; or leave out `placement`"
    refusal = UserCodeError(f"{what} can't go to another worker: {name_of(cause)}", hint=hint)
    refusal.__cause__ = cause
    return refusal
