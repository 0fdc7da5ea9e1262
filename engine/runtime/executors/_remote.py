"""What a pool's process says of a call, made into its completion."""

from __future__ import annotations

import pickle
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from engine.dataflow._callable_name import f_repr
from engine.errors import RemoteError, UserCodeError, WorkerProcessError
from engine.operators.tasks import Call, Completion, Kind
from engine.operators.tasks._requests import Outcome
from engine.runtime.executors._child import (
    EXCEPTION,
    REMOTE_EXCEPTION,
    UNREADABLE,
    VALUE,
)

_RETURNED, _RAISED = Kind.RETURNED, Kind.RAISED
_HINT = "records and results go between processes as pickles; or use executor='thread'"


class Remote:
    """Writes calls for processes and reads what they made of them.

    Args:
        fn: The user's function, for messages.
    """

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self._fn = fn

    def written(self, call: Call) -> bytes | Completion:
        """A call's argument, pickled; or the call's end if that can't be."""
        try:
            return pickle.dumps(call.argument, pickle.HIGHEST_PROTOCOL)
        except BaseException as ex:  # noqa: BLE001 - of the user's own classes
            error = self._blamed(f"the record of {f_repr(self._fn)} can't be pickled: {ex!r}", ex)
            return Completion(call.call_id, _RAISED, error)

    def completion(self, call_id: int, what: int, data: bytes) -> Completion:
        """The end of a call, of the result that its process has sent."""
        if what == VALUE:
            try:
                return Completion(call_id, _RETURNED, pickle.loads(data))  # noqa: S301 - our own
            except BaseException as ex:  # noqa: BLE001 - of the user's own classes
                text = f"what {f_repr(self._fn)} returned can't be unpickled: {ex!r}"
                return Completion(call_id, _RAISED, self._blamed(text, ex))
        if what == EXCEPTION:
            exception, texts = pickle.loads(data)  # noqa: S301 - our own
            return Completion(call_id, _RAISED, _raised(exception, _remote_error(texts)))
        error = _remote_error(data)
        if what == REMOTE_EXCEPTION:
            return Completion(call_id, _RAISED, error)
        about = "the record of" if what == UNREADABLE else "what was returned by"
        doing = "unpickled" if what == UNREADABLE else "pickled"
        text = f"{about} {f_repr(self._fn)} can't be {doing}: {error.type_name}: {error.message}"
        hint = "give the step executor='async'" if "'coroutine'" in error.message else _HINT
        return Completion(call_id, _RAISED, self._blamed(text, error, hint))

    def answer(self, outcomes: list[Outcome] | None) -> Any:
        """What a call waits for, as it is sent."""
        if outcomes is None:
            return None
        return [(ok, value if ok else _packed(value)) for ok, value in outcomes]

    def _blamed(self, text: str, cause: BaseException, hint: str = _HINT) -> UserCodeError:
        error = UserCodeError(text, function=self._fn, hint=hint)
        error.__cause__ = cause
        return error

    def not_loaded(self, text: str, traceback_text: str) -> UserCodeError:
        """A process could not import the function."""
        error = self._blamed(
            f"{f_repr(self._fn)} can't be loaded in a process for tasks: {text}",
            RemoteError(text.partition("(")[0], text, traceback_text),
        )
        error.hint = "the process imports the function's module anew: it must be importable there"
        return error


def _remote_error(texts: bytes) -> RemoteError:
    return RemoteError(*pickle.loads(texts))  # noqa: S301 - our own


def _raised(data: bytes, remote: RemoteError) -> BaseException:
    try:
        exception: BaseException = pickle.loads(data)  # noqa: S301 - our own
    except BaseException:  # noqa: BLE001 - of the user's own classes; the text is there
        return remote
    exception.__cause__ = remote
    return exception


def _packed(error: BaseException) -> bytes:
    """An exception with what it says of another process, which it wouldn't take along itself."""
    cause = error.__cause__ if isinstance(error.__cause__, RemoteError) else None
    try:
        data = pickle.dumps((error, cause), pickle.HIGHEST_PROTOCOL)
        pickle.loads(data)  # noqa: S301 - written a line above
    except BaseException:  # noqa: BLE001 - of the user's own classes
        text = "".join(traceback.format_exception(error))
        remote = cause or RemoteError(type(error).__qualname__, str(error), text)
        return pickle.dumps((remote, None), pickle.HIGHEST_PROTOCOL)
    return data


def how_it_ended(exit_code: int | None) -> str:
    """An exit code in words.

    >>> how_it_ended(-9)
    'was killed by SIGKILL'
    """
    if exit_code is None:
        return "does not end"
    if exit_code < 0:
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-exit_code).name}"
    return f"ended with exit code {exit_code}"


def died(call_id: int, fn: Callable[[Any], Any], pid: int, exit_code: int | None) -> Completion:
    """The end of the call that a process ran when it died."""
    hint = ", perhaps for want of memory" if exit_code == -signal.SIGKILL else ""
    text = f"the process (id {pid}) that ran {f_repr(fn)} {how_it_ended(exit_code)}{hint}"
    return Completion(call_id, Kind.DIED, WorkerProcessError(text, exit_code=exit_code))
