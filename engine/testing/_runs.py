"""Entry points that run a flow from Python, as tests and notebooks do."""

from __future__ import annotations

from datetime import timedelta

from engine.dataflow import Dataflow
from engine.recovery import RecoveryConfig
from engine.runtime import DEFAULT_EPOCH_INTERVAL, Address, RunOptions, monitoring, run_flow


def run_main(
    flow: Dataflow,
    *,
    epoch_interval: timedelta | None = None,
    recovery_config: RecoveryConfig | None = None,
    metrics: str | None = None,
) -> None:
    """Run a flow with one worker on the calling thread until its input ends.

    Functions of the flow run on this thread, so they may close over local variables.

    Args:
        flow: What to run.
        epoch_interval: Time between epochs, 10 seconds if left out. Zero makes each source batch
            an epoch of its own.
        recovery_config: Where to save epochs, so that a later run goes on where this one stopped.
        metrics: Where to serve metrics and health while it runs: ``PORT`` of this machine, or
            ``HOST:PORT``. Nowhere if left out.

    Raises:
        EngineRuntimeError: The run ended because of an error; the chain of `__cause__` ends in
            the exception that was raised first.
        FlowError: The flow has no input or no output.
        MetricsAddressError: Metrics can't be served there.
        StoreError: The recovery store can't be used. It is left as it was.

    >>> import engine.operators as op
    >>> from engine.testing import TestingSink, TestingSource
    >>> flow, out = Dataflow("doc"), []
    >>> s = op.input("in", flow, TestingSource([1, 2]))
    >>> op.output("out", s, TestingSink(out))
    >>> run_main(flow)
    >>> out
    [1, 2]
    """
    _run(flow, _options(epoch_interval, recovery_config, 1), metrics)


def cluster_main(  # noqa: PLR0913 - options by name, as users know them
    flow: Dataflow,
    addresses: list[str],
    proc_id: int,
    *,
    epoch_interval: timedelta | None = None,
    recovery_config: RecoveryConfig | None = None,
    worker_count_per_proc: int = 1,
    metrics: str | None = None,
) -> None:
    """Run a flow as one process of a cluster, for now one that has no other processes.

    Several workers are threads of this process: functions of the flow run on all of them, at any
    time, and may close over local variables if they bear that.

    Args:
        flow: What to run.
        addresses: ``host:port`` of each process; none for a cluster of this process alone.
        proc_id: Which of them this process is.
        epoch_interval: As in `run_main`.
        recovery_config: As in `run_main`.
        worker_count_per_proc: Workers in each process.
        metrics: As in `run_main`.

    Raises:
        NotImplementedError: Other processes are asked for.
        ValueError: The number of workers is below 1.
        EngineRuntimeError: As in `run_main`.
    """
    if len(addresses) > 1 or proc_id != 0:
        msg = "clusters of several processes are not supported yet; use no addresses and process 0"
        raise NotImplementedError(msg)
    if worker_count_per_proc < 1:
        msg = f"worker_count_per_proc must be at least 1; got {worker_count_per_proc!r}"
        raise ValueError(msg)
    _run(flow, _options(epoch_interval, recovery_config, worker_count_per_proc), metrics)


def _options(
    epoch_interval: timedelta | None, recovery: RecoveryConfig | None, workers: int
) -> RunOptions:
    interval = DEFAULT_EPOCH_INTERVAL if epoch_interval is None else epoch_interval
    return RunOptions(interval, workers=workers, recovery=recovery)


def _run(flow: Dataflow, options: RunOptions, metrics: str | None) -> None:
    address = None if metrics is None else Address.parse(metrics)
    with monitoring(address, options.clock, options.tell) as options.monitor:
        run_flow(flow, options)
