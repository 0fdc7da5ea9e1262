"""Entry points that run a flow from Python, as tests and notebooks do."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from engine.dataflow import Dataflow
from engine.runtime import DEFAULT_EPOCH_INTERVAL, RunOptions, run_flow


def run_main(
    flow: Dataflow,
    *,
    epoch_interval: timedelta | None = None,
    recovery_config: Any = None,
) -> None:
    """Run a flow with one worker on the calling thread until its input ends.

    Functions of the flow run on this thread, so they may close over local variables.

    Args:
        flow: What to run.
        epoch_interval: Time between epochs, 10 seconds if left out. Zero makes each source batch
            an epoch of its own.
        recovery_config: Not supported yet.

    Raises:
        EngineRuntimeError: The run ended because of an error; the chain of `__cause__` ends in
            the exception that was raised first.
        FlowError: The flow has no input or no output.
        NotImplementedError: A `recovery_config` was given.

    >>> import engine.operators as op
    >>> from engine.testing import TestingSink, TestingSource
    >>> flow, out = Dataflow("doc"), []
    >>> s = op.input("in", flow, TestingSource([1, 2]))
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [1, 2]
    """
    _refuse_recovery(recovery_config)
    _run_one(flow, epoch_interval)


def cluster_main(
    flow: Dataflow,
    addresses: list[str],
    proc_id: int,
    *,
    epoch_interval: timedelta | None = None,
    recovery_config: Any = None,
    worker_count_per_proc: int = 1,
) -> None:
    """Run a flow as one process of a cluster; only a cluster of one worker for now.

    Args:
        flow: What to run.
        addresses: ``host:port`` of each process; none for a cluster of this process alone.
        proc_id: Which of them this process is.
        epoch_interval: As in `run_main`.
        recovery_config: Not supported yet.
        worker_count_per_proc: Workers in each process.

    Raises:
        NotImplementedError: More than one worker is asked for, or recovery.
        EngineRuntimeError: As in `run_main`.
    """
    _refuse_recovery(recovery_config)
    if len(addresses) > 1 or worker_count_per_proc != 1 or proc_id != 0:
        msg = (
            "runs with more than one worker are not supported yet; "
            "use no addresses, process 0 and one worker per process"
        )
        raise NotImplementedError(msg)
    _run_one(flow, epoch_interval)


def _run_one(flow: Dataflow, epoch_interval: timedelta | None) -> None:
    interval = DEFAULT_EPOCH_INTERVAL if epoch_interval is None else epoch_interval
    run_flow(flow, RunOptions(epoch_interval=interval))


def _refuse_recovery(recovery_config: Any) -> None:
    if recovery_config is not None:
        msg = "recovery is not supported yet; run without `recovery_config`"
        raise NotImplementedError(msg)
