"""How a value from outside is shown in an error message: short, and whatever its `repr` does."""

from __future__ import annotations


def shortened(value: object, length_max: int = 200) -> str:
    """A `repr` of bounded length that doesn't raise.

    >>> shortened("a" * 1000, 10)
    "'aaaaaa..."
    """
    try:
        text = repr(value)
    except Exception as ex:  # noqa: BLE001 - a user's __repr__ must not hide the error itself
        text = f"<{type(value).__name__} whose repr raises {type(ex).__name__}>"
    return text if len(text) <= length_max else f"{text[: length_max - 3]}..."


def shown(value: object) -> str:
    """A value and its type, as error messages name what they got.

    >>> shown([1])
    '[1] of type `list`'
    """
    return f"{shortened(value, 120)} of type `{type(value).__name__}`"
