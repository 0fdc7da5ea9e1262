"""`inspect`, `inspect_debug` and `raises`: looking into a stream, and forbidding one.

`inspect_debug` is a core operator, the others are compositions of it. All count as an output: a
flow may end in one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.dataflow import Stream, operator
from engine.dataflow._operator import new_stream
from engine.operators._checks import require_function
from engine.operators._kernels import InspectDebugKernel, InspectKernel
from engine.operators._shown import shown
from engine.operators._types import X


def _print_record(step_id: str, item: object) -> None:
    print(f"{step_id}: {item!r}", flush=True)  # noqa: T201 (printing is what it is for)


def _print_debug(step_id: str, item: object, epoch: int, worker_index: int) -> None:
    print(f"{step_id} W{worker_index} @{epoch}: {item!r}", flush=True)  # noqa: T201 (as above)


@operator(core=True, kernel=lambda step, _workers: InspectDebugKernel(step.params["inspector"]))
def inspect_debug(
    step_id: str,
    up: Stream[X],
    inspector: Callable[[str, X, int, int], None] = _print_debug,
) -> Stream[X]:
    """Show each record, its epoch and its worker to a function, and pass it on.

    Order is kept. Keeps no state. Counts as an output of the flow.

    Args:
        step_id: Name of the step.
        up: Stream.
        inspector: Called with the full step id, the record, the epoch (the first is 1) and the
            worker's index (the first is 0). Prints them by default.

    Returns:
        Stream of the same records.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSource, run_main
    >>> flow = Dataflow("inspect_debug_example")
    >>> s = op.input("in", flow, TestingSource(["a"]))
    >>> s = op.inspect_debug("look", s)
    >>> run_main(flow)
    inspect_debug_example.look W0 @1: 'a'
    """
    require_function(step_id, "inspector", inspector)
    return new_stream(step_id, up)


@operator(kernel=lambda step, _workers: InspectKernel(step.params["inspector"], step.step_id))
def inspect(
    step_id: str, up: Stream[X], inspector: Callable[[str, X], None] = _print_record
) -> Stream[X]:
    """Show each record to a function, and pass it on.

    Order is kept. Keeps no state. Counts as an output of the flow.

    Args:
        step_id: Name of the step.
        up: Stream.
        inspector: Called with the full step id and the record. Prints both by default.

    Returns:
        Stream of the same records.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSource, run_main
    >>> flow = Dataflow("inspect_example")
    >>> s = op.input("in", flow, TestingSource(["a", "b"]))
    >>> s = op.inspect("look", s)
    >>> run_main(flow)
    inspect_example.look: 'a'
    inspect_example.look: 'b'
    """
    require_function(step_id, "inspector", inspector)

    def show(_inner_id: str, item: X, _epoch: int, _worker_index: int) -> None:
        inspector(step_id, item)

    return inspect_debug("inspect_debug", up, show)


@operator
def raises(step_id: str, up: Stream[Any]) -> None:
    """Stop the run with an error as soon as any record comes.

    For streams that must stay empty, such as the errors of a step that should have none. Counts
    as an output of the flow.

    Args:
        step_id: Name of the step.
        up: Stream that must stay empty.

    Raises:
        RuntimeError: A record came; it is named in the message. Raised while the flow runs.

    >>> import engine.operators as op
    >>> from engine.dataflow import Dataflow
    >>> from engine.testing import TestingSink, TestingSource, run_main
    >>> flow, out = Dataflow("raises_example"), []
    >>> s = op.input("in", flow, TestingSource([1, 2]))
    >>> signs = op.branch("is_positive", s, lambda x: x > 0)
    >>> op.raises("no_negatives", signs.falses)
    >>> op.output("out", signs.trues, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [1, 2]
    """

    def refuse(_inner_id: str, item: object, _epoch: int, _worker_index: int) -> None:
        msg = f"step {step_id!r} must not get any record; got {shown(item)}"
        raise RuntimeError(msg)

    # Whatever the flow does about errors: this one is wanted.
    inspect_debug("inspect_debug", up, refuse).on_error("fail")
