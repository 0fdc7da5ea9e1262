"""A step whose actors get more than they handle: when it waits for the store, and what it says."""

from __future__ import annotations

import pytest

from engine.runtime import _actor_node
from engine.runtime._backlog import PATIENCE_S, Backlog
from engine.runtime._memory import StateMemory
from tests.runtime.shelf import Shelf
from tests.runtime.test_actor_node import Scene


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than five messages since the last barrier are too many."""
    monkeypatch.setattr(_actor_node, "FRESH_MAX", 5)


@pytest.mark.usefixtures("few")
def test_actors_wait_for_an_epoch_when_much_has_come_since_the_last_one():
    """It is asked for once; behind its barrier they go on."""
    shelf, scene = Shelf(), Scene()
    shelf.give(scene.node.table)
    scene.receive(*range(6))
    assert scene.node.wait_s(room=True) == 0.0
    scene.node.turn(room=True)
    assert scene.out == []
    assert scene.node.asks_commit()
    assert not scene.node.asks_commit()
    assert scene.node.wait_s(room=True) > 0.0
    shelf.take(scene.node.table)
    assert scene.node.turn(room=True) == 0.0
    assert scene.out == [*range(6)]
    assert not scene.node.asks_commit()


@pytest.mark.usefixtures("few")
def test_records_are_let_in_though_actors_wait():
    """A barrier behind them must never wait for that."""
    shelf, scene = Shelf(), Scene()
    shelf.give(scene.node.table)
    scene.receive(*range(6))
    scene.node.push([("b", 7)])
    assert scene.out == []
    assert scene.node.table.boxes.pending == 7


@pytest.mark.usefixtures("few")
def test_without_a_store_nobody_waits_for_it():
    """No epoch would change anything."""
    scene = Scene()
    scene.receive(*range(6))
    assert not scene.node.asks_commit()
    scene.node.turn(room=True)
    assert scene.out == [*range(6)]


def test_what_waits_counts_as_memory_that_is_taken():
    """Whether states do or not; when it has left memory it doesn't."""
    shelf, scene = Shelf(), Scene()
    table = scene.node.table
    shelf.give(table)
    memory = StateMemory([table.state], 1_000_000, [table.boxes])
    scene.receive(*range(100))
    assert not memory.full()
    scene.receive(*range(10_000))
    assert memory.full()
    shelf.take(table)
    memory.make_room([table.state])
    assert not memory.full()
    assert table.boxes.pending == 10_100


def test_a_backlog_is_told_of_when_it_lasts_and_not_too_often():
    """With the actor that most messages wait for; one that is over is forgotten."""
    said: list[str] = []
    backlog, scene = Backlog("f.act", 3, said.append), Scene()
    boxes = scene.node.table.boxes
    scene.receive(*range(3))
    backlog.look(boxes, 0.0)
    scene.receive(3)
    for now_s in (1.0, PATIENCE_S, 1.0 + PATIENCE_S, 2.0 + PATIENCE_S):
        backlog.look(boxes, now_s)
    assert said == [
        (
            "step 'f.act' takes no input: for 10 s more than 3 messages wait for its actors, "
            "4 now, and 4 of them for Echo.ref('a')"
        )
    ]
    backlog.look(boxes, 200.0)
    assert len(said) == 2
    scene.node.turn(room=True)
    backlog.look(boxes, 300.0)
    scene.receive(*range(4))
    backlog.look(boxes, 301.0)
    backlog.look(boxes, 302.0)
    assert len(said) == 2
