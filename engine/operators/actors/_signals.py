"""What the engine itself tells actors, by `Actor.on_signal`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from engine.operators.actors._ref import Ref


@dataclass(frozen=True, slots=True)
class Started:
    """The actor has no state yet: its first message follows."""


@dataclass(frozen=True, slots=True)
class Restored:
    """The actor's state was read from the store."""


@dataclass(frozen=True, slots=True)
class Passivating:
    """No message has come for as long as the class says in `passivate`: the actor is put away.

    It comes back with its next message, behind `Restored`.
    """


@dataclass(frozen=True, slots=True)
class ChildFailed:
    """An actor that this one has spawned has failed, and is stopped.

    A class without an `on_signal` of its own fails of it itself.
    """

    ref: Ref
    message: Any
    """What it failed on."""
    error: str
    """The exception's type and text."""


@dataclass(frozen=True, slots=True)
class Terminated:
    """An actor that this one watches has stopped."""

    ref: Ref


Signal: TypeAlias = Started | Restored | Passivating | ChildFailed | Terminated
