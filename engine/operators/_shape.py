"""`branch`, `merge` and `redistribute`: operators that change where records go, not what they are.

Core operators: the runtime wires its steps accordingly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeGuard, TypeVar, overload

from engine.dataflow import Stream, operator
from engine.dataflow._operator import new_stream
from engine.operators._checks import require_function
from engine.operators._kernels import BranchKernel, MergeKernel, RedistributeKernel
from engine.operators._types import X, Y

if TYPE_CHECKING:
    from typing_extensions import TypeIs

X1 = TypeVar("X1")
X2 = TypeVar("X2")
X3 = TypeVar("X3")
X4 = TypeVar("X4")
X5 = TypeVar("X5")


@dataclass(frozen=True, slots=True)
class BranchOut(Generic[X, Y]):
    """The two streams that `branch` makes of one."""

    trues: Stream[X]
    """Records for which the predicate holds."""
    falses: Stream[Y]
    """All others."""


@overload
def branch(step_id: str, up: Stream[X], predicate: Callable[[X], TypeIs[Y]]) -> BranchOut[Y, X]: ...
@overload
def branch(
    step_id: str, up: Stream[X], predicate: Callable[[X], TypeGuard[Y]]
) -> BranchOut[Y, X]: ...
@overload
def branch(step_id: str, up: Stream[X], predicate: Callable[[X], bool]) -> BranchOut[X, X]: ...
@operator(core=True, kernel=lambda step, _workers: BranchKernel(step.params["predicate"]))
def branch(step_id: str, up: Stream[X], predicate: Callable[[X], bool]) -> BranchOut[Any, Any]:
    """Divide a stream into two.

    Order is kept in each of the two. Keeps no state.

    Args:
        step_id: Name of the step.
        up: Stream.
        predicate: Called with each record; must give a real `bool`. A `TypeGuard` or `TypeIs`
            gives `trues` the narrower type.

    Returns:
        The streams `trues` and `falses`. One of them may be left unused.

    Raises:
        UserCodeError: The predicate gave something else than a `bool`.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, small, large = Dataflow("branch_example"), [], []
    >>> s = op.input("in", flow, TestingSource([1, 20, 3, 40]))
    >>> sizes = op.branch("is_small", s, lambda x: x < 10)
    >>> op.output("small", sizes.trues, TestingSink(small))
    >>> op.output("large", sizes.falses, TestingSink(large))
    >>> run_main(flow)
    >>> small, large
    ([1, 3], [20, 40])
    """
    require_function(step_id, "predicate", predicate)
    return BranchOut(new_stream(step_id, up, "trues"), new_stream(step_id, up, "falses"))


@overload
def merge(step_id: str, up1: Stream[X1], /) -> Stream[X1]: ...
@overload
def merge(step_id: str, up1: Stream[X1], up2: Stream[X2], /) -> Stream[X1 | X2]: ...
@overload
def merge(
    step_id: str, up1: Stream[X1], up2: Stream[X2], up3: Stream[X3], /
) -> Stream[X1 | X2 | X3]: ...
@overload
def merge(
    step_id: str, up1: Stream[X1], up2: Stream[X2], up3: Stream[X3], up4: Stream[X4], /
) -> Stream[X1 | X2 | X3 | X4]: ...
@overload
def merge(
    step_id: str,
    up1: Stream[X1],
    up2: Stream[X2],
    up3: Stream[X3],
    up4: Stream[X4],
    up5: Stream[X5],
    /,
) -> Stream[X1 | X2 | X3 | X4 | X5]: ...
@overload
def merge(step_id: str, *ups: Stream[X]) -> Stream[X]: ...
@operator(core=True, kernel=lambda _step, _workers: MergeKernel())
def merge(step_id: str, *ups: Stream[Any]) -> Stream[Any]:
    """Put several streams into one.

    The records of each stream keep their order; there is none between streams. Keeps no state.

    Args:
        step_id: Name of the step.
        *ups: Streams, at least one.

    Returns:
        Stream of all records.

    Raises:
        TypeError: No stream was given; raised while the flow is built.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("merge_example"), []
    >>> digits = op.input("digits", flow, TestingSource([1, 2, 3]))
    >>> letters = op.input("letters", flow, TestingSource(["a", "b", "c"]))
    >>> s = op.merge("merge", digits, letters)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [1, 'a', 2, 'b', 3, 'c']
    """
    return new_stream(step_id, ups[0])


@operator(core=True, kernel=lambda _step, _workers: RedistributeKernel())
def redistribute(step_id: str, up: Stream[X]) -> Stream[X]:
    """Deal records evenly over all workers.

    For steps that have much to calculate after a source that only some workers can read. Keyed
    steps need none before them: they route by key themselves. Order is lost, unless there is only
    one worker. Keeps no state.

    Args:
        step_id: Name of the step.
        up: Stream.

    Returns:
        Stream of the same records, each on one of the workers.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("redistribute_example"), []
    >>> s = op.input("in", flow, TestingSource([1, 2, 3]))
    >>> s = op.redistribute("spread", s)
    >>> s = op.map("work", s, lambda x: x**2)
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> sorted(out)
    [1, 4, 9]
    """
    return new_stream(step_id, up)
