"""An actor of Thespian, which starts processes that find it by its name in this module."""

from __future__ import annotations

import importlib
from typing import Any

_actors: Any = importlib.import_module("thespian.actors")


class Member(_actors.Actor):  # type: ignore[misc] # it isn't always installed
    """Hands a hop, of how many are left and who began, on to another; answers numbers."""

    other: Any = None

    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802 - its name
        if message.__class__ is int:
            self.send(sender, message)
        elif message.__class__ is not tuple:
            self.other = message
            self.send(sender, 0)
        elif message[0]:
            self.send(self.other, (message[0] - 1, message[1] or sender))
        else:
            self.send(message[1] or sender, 0)
