"""`join` in all of its modes, by a kernel and by its composition."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import engine.operators as op
from engine.operators._join import _Join
from engine.operators._join_kernel import JoinKernel
from engine.operators._kernels import StepContext
from tests.operators.flows import by_key, emitted, emitted_by_all

KERNELS = pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "composition"])

# Two values on the left, then one on the right, then one more on each.
LEFT = [("k", "l1"), ("k", "l2"), ("k", "l3")]
RIGHT = [("other", "r0"), ("other", "r0"), ("k", "r1")]

EXPECTED = {
    ("first", "complete"): [("l1", "r1")],
    ("last", "complete"): [("l3", "r1")],
    ("product", "complete"): [("l1", "r1"), ("l2", "r1"), ("l3", "r1")],
    ("first", "running"): [("l1", None)] * 3 + [("l1", "r1")],
    ("last", "running"): [("l1", None), ("l2", None), ("l3", None), ("l3", "r1")],
    ("product", "running"): [
        ("l1", None),
        *[("l1", None), ("l2", None)],
        *[("l1", None), ("l2", None), ("l3", None)],
        *[("l1", "r1"), ("l2", "r1"), ("l3", "r1")],
    ],
    ("first", "final"): [("l1", "r1")],
    ("last", "final"): [("l3", "r1")],
    ("product", "final"): [("l1", "r1"), ("l2", "r1"), ("l3", "r1")],
}


@KERNELS
@pytest.mark.parametrize(("insert_mode", "emit_mode"), EXPECTED)
def test_modes(insert_mode, emit_mode, kernels: bool) -> None:
    """Each pair of modes gives its rows, in order."""
    out = emitted(
        lambda left, right: op.join("j", left, right, insert_mode=insert_mode, emit_mode=emit_mode),
        LEFT,
        RIGHT,
        kernels=kernels,
    )
    assert by_key(out)["k"] == EXPECTED[insert_mode, emit_mode]


@KERNELS
@pytest.mark.parametrize("insert_mode", ["first", "last", "product"])
def test_a_complete_row_begins_anew(insert_mode, kernels: bool) -> None:
    """After a row the key has no values, so the next row needs all sides again."""
    out = emitted(
        lambda left, right: op.join("j", left, right, insert_mode=insert_mode),
        [("k", 1), ("k", 2), ("k", 3)],
        [("k", 10), ("k", 20)],
        kernels=kernels,
    )
    assert out == [("k", (1, 10)), ("k", (2, 20))]


@KERNELS
def test_the_right_side_may_come_first(kernels: bool) -> None:
    """Rows are in the order of the sides, whichever came first."""
    out = emitted(
        lambda left, right: op.join("j", left, right),
        [("x", 0), ("k", "left")],
        [("k", "right")],
        kernels=kernels,
    )
    assert out == [("k", ("left", "right"))]


@KERNELS
@pytest.mark.parametrize("emit_mode", ["complete", "running", "final"])
@pytest.mark.parametrize("sides", [1, 3, 5])
def test_any_number_of_sides(sides: int, emit_mode, kernels: bool) -> None:
    """One side, and more than two, work alike."""
    out = emitted(
        lambda *streams: op.join("j", *streams, emit_mode=emit_mode),
        *[[("k", side)] for side in range(sides)],
        kernels=kernels,
    )
    assert out[-1] == ("k", tuple(range(sides)))
    assert len(out) == (sides if emit_mode == "running" else 1)


@KERNELS
def test_final_fills_with_none(kernels: bool) -> None:
    """At the end of input each key gives its rows in key order, None for what is missing."""
    out = emitted(
        lambda left, right: op.join("j", left, right, emit_mode="final"),
        [("b", 1)],
        [("a", 2)],
        kernels=kernels,
    )
    assert out == [("a", (None, 2)), ("b", (1, None))]


@KERNELS
@pytest.mark.parametrize("insert_mode", ["first", "last", "product"])
@pytest.mark.parametrize("sides", [2, 3])
def test_none_is_a_value_that_came(insert_mode, sides: int, kernels: bool) -> None:
    """A side that sent None is complete, and "first" keeps it."""
    out = emitted(
        lambda *streams: op.join("j", *streams, insert_mode=insert_mode),
        *[[("k", None)] for _ in range(sides)],
        kernels=kernels,
    )
    assert out == [("k", (None,) * sides)]


@KERNELS
@pytest.mark.parametrize("emit_mode", ["complete", "final"])
def test_a_false_value_is_kept_as_the_first(emit_mode, kernels: bool) -> None:
    """With "first" a 0 holds its place like any other value."""
    out = emitted(
        lambda left, right: op.join("j", left, right, insert_mode="first", emit_mode=emit_mode),
        [("k", 0), ("k", 1), ("other", 2)],
        [("other", 0), ("other", 1), ("k", 3)],
        kernels=kernels,
    )
    assert by_key(out)["k"] == [(0, 3)]


def test_rows_that_came_out_at_the_end_are_forgotten() -> None:
    """With "final" nothing is left to be saved after the end of input."""
    step = StepContext("flow.j", 0, 1, SimpleNamespace(epoch=1), lambda: 0.0)
    logic = JoinKernel(2, "last", "final").start(step)
    logic.on_batch(0, [("k", 1)])
    assert step.state.touched
    assert logic.on_eof() == [("k", (1, None))]
    assert not step.state.touched


@KERNELS
def test_incomplete_rows_stay_silent_at_the_end(kernels: bool) -> None:
    """With "complete" a key that lacks a side emits nothing."""
    for sides in ([("k", 1)], []), ([("k", 1)], [], []):
        assert emitted(lambda *streams: op.join("j", *streams), *sides, kernels=kernels) == []


@KERNELS
def test_a_stream_may_be_joined_with_itself(kernels: bool) -> None:
    """Both sides get each record."""
    out = emitted(lambda s: op.join("j", s, s), [("k", 1)], kernels=kernels)
    assert out == [("k", (1, 1))]


@KERNELS
@pytest.mark.parametrize("seed", range(4))
def test_join_on_several_workers(seed: int, kernels: bool) -> None:
    """Both sides of a key meet on one worker."""
    left = [(f"k{i}", i) for i in range(30)]
    right = [(f"k{i}", -i) for i in reversed(range(30))]
    out = emitted_by_all(
        lambda a, b: op.join("j", op.redistribute("r", a), b),
        left,
        right,
        workers=3,
        seed=seed,
        kernels=kernels,
    )
    assert sorted(out) == sorted((f"k{i}", (i, -i)) for i in range(30))


@pytest.mark.parametrize("mode", ["insert_mode", "emit_mode"])
def test_unknown_modes_are_refused(mode: str) -> None:
    """The error names the argument, what it got, and the modes there are."""
    with pytest.raises(ValueError, match=f"`{mode}` of step 'flow.j' must be one of .*; got 'x'"):
        emitted(lambda s: op.join("j", s, **{mode: "x"}), [])


def test_a_join_needs_a_side() -> None:
    """Without streams there is nothing to join."""
    with pytest.raises(TypeError, match="operator `join`"):
        op.join("j")


def test_a_snapshot_of_a_join_stays_as_it_is() -> None:
    """What is saved of a key doesn't change with later values, and can be gone on with."""
    logic = _Join("product", "final", [(), ()])
    logic.on_item((0, "a"))
    saved = logic.snapshot()
    logic.on_item((0, "b"))
    assert saved == [["a"], []]
    assert _Join("product", "final", saved).on_eof() == ([("a", None)], True)
