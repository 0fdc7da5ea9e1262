"""The queue of completions, and when it wakes."""

from __future__ import annotations

from collections import deque
from typing import Any

from engine.operators.tasks import Completion, Kind
from engine.runtime.executors._finished import Finished

ONE, TWO = Completion(1, Kind.RETURNED, None), Completion(2, Kind.RETURNED, None)


def test_one_wake_stands_for_all_until_somebody_looks():
    """However many calls end."""
    wakes: list[int] = []
    finished = Finished(lambda: wakes.append(1))
    finished.add(ONE)
    finished.add(TWO)
    finished.add_all([ONE, TWO])
    assert len(wakes) == 1
    assert finished.take() == [ONE, TWO, ONE, TWO]
    finished.add_all([TWO])
    assert len(wakes) == 2


def test_what_comes_while_somebody_looks_wakes_again():
    """It is put in after the last look, and before the look is over."""
    wakes: list[int] = []
    finished = Finished(lambda: wakes.append(1))

    class Late(deque[Any]):
        """Gets one more just after it was seen to be empty."""

        late = True

        def __len__(self) -> int:
            length = super().__len__()
            if not length and self.late:
                self.late = False
                finished.add(TWO)
            return length

    finished.add(ONE)
    finished._queue = Late(finished._queue)
    assert finished.take() == [ONE]
    assert len(wakes) == 2
    assert finished.take() == [TWO]


def test_nothing_wakes_nobody():
    """Results that nobody wants any more."""
    wakes: list[int] = []
    Finished(lambda: wakes.append(1)).add_all([])
    assert wakes == []
