"""One call of a plain function: in a context of its own, and whatever it raises is its result."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from types import CoroutineType
from typing import Any, cast

from engine.dataflow._callable_name import f_repr
from engine.errors import UserCodeError
from engine.operators.tasks import Call, Completion, Kind

_RETURNED, _RAISED = Kind.RETURNED, Kind.RAISED


class RunCall:
    """Calls a user's function.

    Args:
        fn: The function.
    """

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self._fn = fn

    def __call__(self, call: Call) -> Completion:
        """Run it on this thread. Even what is meant to end a thread ends the call only."""
        call_id, argument = call
        try:
            value = Context().run(self._fn, argument)
        except BaseException as ex:  # noqa: BLE001 - SystemExit too: a task isn't the worker
            return Completion(call_id, _RAISED, ex)
        if type(value) is CoroutineType:
            return Completion(call_id, _RAISED, self._not_awaited(cast("Any", value)))
        return Completion(call_id, _RETURNED, value)

    def _not_awaited(self, value: Any) -> UserCodeError:
        value.close()
        return UserCodeError(
            f"{f_repr(self._fn)} returned a coroutine, which nobody awaits here",
            function=self._fn,
            hint="give the step executor='async'",
        )
