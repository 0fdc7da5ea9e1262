"""What an actor is addressed by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, cast

from engine.operators._keys import Key


class Ref(tuple[Any, None, str]):
    """The address of an actor: the name of its class, and its key.

    There is an actor behind each address, from the first message that is sent there. A ref is
    made by `Actor.ref`, may be part of states and messages, and equals others of the same address.

    Its form is that of `engine.keys.part_key`, so it is in the key group of its key.

    >>> ref = Ref("Account", "ann")
    >>> ref.actor, ref.key
    ('Account', 'ann')
    """

    __slots__ = ()

    def __new__(cls, actor: str, key: Key) -> Self:
        """Make one; the key isn't looked at."""
        # Not by `super()`, which takes longer: one is made for nearly each message.
        return tuple.__new__(cls, (key, None, actor))  # pyright: ignore[reportUnknownMemberType] - as typeshed has it

    def __getnewargs__(self) -> tuple[str, Key]:
        """As `__new__` takes them."""
        return self[2], self[0]

    @property
    def actor(self) -> str:
        """The name of the actor's class."""
        return self[2]

    @property
    def key(self) -> Any:
        """The actor's key."""
        return self[0]

    def __repr__(self) -> str:
        return f"{self[2]}.ref({self[0]!r})"


new_ref = cast("Callable[[type[Ref], tuple[Any, None, str]], Ref]", tuple.__new__)  # pyright: ignore[reportUnknownMemberType] - as above
"""What `Ref` does, with one call less: takes the class, and the key, None and the actor's name."""
