"""Type variables that the operators' signatures share."""

from __future__ import annotations

from typing import TypeVar

from engine.operators._keys import Key

K = TypeVar("K", bound=Key)
"""Key of a keyed stream: `str` by convention."""
V = TypeVar("V")
"""Value of a keyed stream."""
W = TypeVar("W")
"""Value that a keyed step emits."""
X = TypeVar("X")
"""Record of a stream."""
Y = TypeVar("Y")
"""Record that a step emits."""
S = TypeVar("S")
"""State of a key."""
