"""The operators that speak at the end of input."""

from __future__ import annotations

from pathlib import Path

import pytest

import engine.operators as op
from engine.operators._finals import _Fold
from engine.recovery import RecoveryConfig
from tests.operators.flows import emitted, emitted_by_all
from tests.operators.timed import CRASH, EACH_BATCH, Timeline

KERNELS = pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "composition"])
PAIRS = [("b", 4), ("a", 3), ("b", 1), ("a", 2)]


@KERNELS
@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda s: op.fold_final("f", s, list, lambda k, v: [*k, v]), {"a": [3, 2], "b": [4, 1]}),
        (lambda s: op.reduce_final("f", s, lambda x, y: x * 10 + y), {"a": 32, "b": 41}),
        (lambda s: op.count_final("f", s, lambda pair: pair[0]), {"a": 2, "b": 2}),
        (lambda s: op.max_final("f", s), {"a": 3, "b": 4}),
        (lambda s: op.min_final("f", s), {"a": 2, "b": 1}),
        (lambda s: op.max_final("f", s, lambda v: -v), {"a": 2, "b": 1}),
        (lambda s: op.min_final("f", s, by=lambda v: -v), {"a": 3, "b": 4}),
    ],
    ids=["fold", "reduce", "count", "max", "min", "max by", "min by"],
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_one_value_per_key_in_key_order(build, expected, batch_size: int, kernels: bool) -> None:
    """At the end of input each key gives one value, the keys in order."""
    out = emitted(build, PAIRS, batch_size=batch_size, kernels=kernels)
    assert out == list(expected.items())


@KERNELS
def test_nothing_comes_of_nothing(kernels: bool) -> None:
    """Without records there are no keys."""
    assert emitted(lambda s: op.count_final("c", s, str), [], kernels=kernels) == []


@KERNELS
def test_a_fold_that_gives_none_begins_anew(kernels: bool, tmp_path: Path) -> None:
    """Also where an earlier run left a fold of the key in the store."""
    batches = [(0.0, [("a", 1)]), (1.0, CRASH), (2.0, [("a", 5), ("a", 2)])]
    line = Timeline(
        lambda s: op.fold_final("f", s, int, lambda n, v: None if v == 5 else n * 3 + v),
        batches,
        epochs=EACH_BATCH,
        kernels=kernels,
        recovery=RecoveryConfig(tmp_path / "store", create=True),
    )
    line.run()
    assert line.run() == [("a", 2)]


@KERNELS
def test_a_value_alone_is_not_reduced(kernels: bool) -> None:
    """The reducer is not called for the only value of a key."""

    def fail(_x: int, _y: int) -> int:
        raise AssertionError

    assert emitted(lambda s: op.reduce_final("r", s, fail), [("a", 1)], kernels=kernels) == [
        ("a", 1)
    ]


@KERNELS
def test_the_first_of_equals_is_kept(kernels: bool) -> None:
    """`max_final` and `min_final` keep the earlier of two that compare equal."""
    items = [("a", "xx"), ("a", "yy"), ("a", "z")]
    assert emitted(lambda s: op.max_final("m", s, len), items, kernels=kernels) == [("a", "xx")]
    equals = [("a", "xx"), ("a", "yy")]
    assert emitted(lambda s: op.min_final("m", s, len), equals, kernels=kernels) == [("a", "xx")]


@KERNELS
def test_none_counts_as_unset(kernels: bool) -> None:
    """A fold or a reduction that is None begins anew with the next value."""
    built: list[int] = []

    def builder() -> int:
        built.append(1)
        return 100

    out = emitted(
        lambda s: op.fold_final("f", s, builder, lambda n, v: None if v == 0 else n + v),
        [("a", 1), ("a", 0), ("a", 5), ("b", 0)],
        kernels=kernels,
    )
    assert out == [("a", 105), ("b", None)]
    assert len(built) == 3
    reduced = emitted(
        lambda s: op.reduce_final("r", s, lambda x, y: x + y),
        [("a", None), ("a", 2), ("b", None)],
        kernels=kernels,
    )
    assert reduced == [("a", 2), ("b", None)]


@KERNELS
def test_a_false_value_counts_as_set(kernels: bool) -> None:
    """Only None is unset: a fold or a reduction that is 0 goes on from there."""
    folded = emitted(
        lambda s: op.fold_final("f", s, lambda: 100, lambda n, v: n - v),
        [("a", 100), ("a", 5)],
        kernels=kernels,
    )
    reduced = emitted(
        lambda s: op.reduce_final("r", s, lambda x, y: x - y),
        [("a", 0), ("a", 5)],
        batch_size=2,
        kernels=kernels,
    )
    assert folded == reduced == [("a", -5)]


@pytest.mark.parametrize("seed", range(5))
def test_results_do_not_depend_on_the_number_of_workers(seed: int) -> None:
    """Combining before the exchange changes nothing for an associative reducer."""
    items = [(f"k{i % 5}", str(i % 10)) for i in range(40)]
    for build in (
        lambda s: op.reduce_final("f", s, lambda x, y: x + y),
        lambda s: op.count_final("f", s, lambda pair: pair[0]),
        lambda s: op.fold_final("f", s, str, lambda x, y: x + y),
        lambda s: op.max_final("f", s),
    ):
        out = emitted_by_all(build, items, workers=3, seed=seed)
        assert sorted(out) == emitted(build, items)


def test_a_reduction_is_combined_before_the_exchange() -> None:
    """With several workers the owner of a key gets one value per batch, not every one."""
    calls: list[tuple[int, int]] = []

    def add(x: int, y: int) -> int:
        calls.append((x, y))
        return x + y

    out = emitted_by_all(lambda s: op.reduce_final("r", s, add), [("a", 1)] * 6, workers=2)
    assert out == [("a", 6)]
    assert calls == [(1, 1), (2, 1), (1, 1), (2, 1), (3, 3)]


def test_a_folded_state_is_copied_for_the_snapshot() -> None:
    """A state that the folder changes in place doesn't change what was saved before."""

    def append(kept: list[int], value: int) -> list[int]:
        kept.append(value)
        return kept

    logic = _Fold(list, append, None)
    logic.on_item(1)
    saved = logic.snapshot()
    logic.on_item(2)
    assert saved == [1]
    assert _Fold(list, append, saved).on_eof() == ([[1]], True)
