"""What a state was before a record came: so that it can be put back if the record is left out.

A user's function may change a state in place before it raises. Steps that go on after errors take
an image of a state before they hand it out: the state itself if nobody can change it, as with
numbers and text, and else what `pickle` makes of it, which costs as much as the state is large. A
step that ends the run at an error takes none.
"""

from __future__ import annotations

import copy
import pickle
from datetime import date, datetime, time, timedelta
from typing import Any, Final

from engine.errors import UserCodeError
from engine.operators._shown import shown

CHANGELESS: Final[frozenset[type]] = frozenset(
    {
        *(type(None), bool, int, float, complex, str, bytes),
        *(date, datetime, time, timedelta),
    }
)
"""Classes whose objects can't be changed; not their subclasses."""


class _Pickled:
    """A state as it was."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def state(self) -> Any:
        """The state, as an object of its own each time."""
        return pickle.loads(self._data)  # noqa: S301 - this process has just written it


class _Copied:
    """A state that can't be pickled; without a copy, one that can't be put back."""

    __slots__ = ("_copy", "_why")

    def __init__(self, state: Any) -> None:
        self._copy: Any = None
        self._why = ""
        try:
            self._copy = copy.deepcopy(state)
        except MemoryError:
            raise
        except Exception as ex:  # noqa: BLE001 - a user's class may raise anything when it is copied
            self._why = f"{shown(state)} can't be copied: {type(ex).__name__}: {ex}"

    def state(self) -> Any:
        """The state.

        Raises:
            UserCodeError: There is no copy of it.
        """
        if self._why:
            msg = (
                f"what a function may have changed before it raised can't be put back: {self._why}"
            )
            hint = "keep a state that can be pickled, or say `on_error('fail')` for this step"
            raise UserCodeError(msg, hint=hint)
        return self._copy


def image_of(state: Any) -> Any:
    """What a state is now, whatever becomes of it.

    >>> total = [1]
    >>> image = image_of(total); total.append(2); restored(image)
    [1]
    """
    if state.__class__ in CHANGELESS:
        return state
    try:
        return _Pickled(pickle.dumps(state, 5))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - whatever the user's classes raise; a copy may do
        return _Copied(state)


def restored(image: Any) -> Any:
    """The state that `image_of` was given, as it was.

    Raises:
        UserCodeError: It could not be copied.
    """
    return image.state() if image.__class__ is _Pickled or image.__class__ is _Copied else image
