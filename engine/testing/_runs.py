"""Entry points that run a flow from Python, as tests and notebooks do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta

from engine.dataflow import Dataflow
from engine.recovery import RecoveryConfig
from engine.runtime import (
    DEFAULT_EPOCH_INTERVAL,
    DEFAULT_SOURCE_TIMEOUT,
    Address,
    Cluster,
    RunOptions,
    monitoring,
    run_flow,
    secret_of,
)


def run_main(
    flow: Dataflow,
    *,
    epoch_interval: timedelta | None = None,
    recovery_config: RecoveryConfig | None = None,
    metrics: str | None = None,
    source_timeout: timedelta = DEFAULT_SOURCE_TIMEOUT,
    resources: Mapping[str, float] | None = None,
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
        source_timeout: For how long a source that can't be reached (`UnavailableError`) is asked
            again, 60 seconds if left out.
        resources: What the worker offers to tasks, by name (``gpu``, or whatever tasks ask for).
            What isn't in it is the machine's: its processors (``cpu``) and its memory (``memory``,
            in bytes).

    Raises:
        EngineRuntimeError: The run ended because of an error; the chain of `__cause__` ends in
            the exception that was raised first.
        FlowError: The flow has no input or no output, or a task takes more than the worker offers.
        AddressError: Metrics can't be served there.
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
    options = _options(epoch_interval, recovery_config, 1, source_timeout)
    options.resources = resources
    _run(flow, options, metrics)


def cluster_main(  # noqa: PLR0913 - options by name, as users know them
    flow: Dataflow,
    addresses: list[str],
    proc_id: int,
    *,
    epoch_interval: timedelta | None = None,
    recovery_config: RecoveryConfig | None = None,
    worker_count_per_proc: int = 1,
    metrics: str | None = None,
    source_timeout: timedelta = DEFAULT_SOURCE_TIMEOUT,
    resources: Mapping[str, float] | None = None,
) -> None:
    """Run a flow as one process of a cluster, or in several workers of this process.

    Several workers are threads of this process: functions of the flow run on all of them, at any
    time, and may close over local variables if they bear that.

    With addresses, each process of the cluster calls this with the same ones and its own number,
    and the environment variable ``ENGINE_CLUSTER_SECRET`` holds a secret that all of them know. The
    addresses must be of this machine: TLS can be had from the command line alone.

    Args:
        flow: What to run.
        addresses: ``host:port`` of each process; none for a cluster of this process alone.
        proc_id: Which of them this process is.
        epoch_interval: As in `run_main`.
        recovery_config: As in `run_main`. All processes must be given the same folder.
        worker_count_per_proc: Workers in each process.
        metrics: As in `run_main`.
        source_timeout: As in `run_main`. Process 0 says it for all of them.
        resources: As in `run_main`, of each worker of this process; what isn't in it is its share
            of the machine.

    Raises:
        ValueError: The number of workers or of the process makes no sense, or there is no secret.
        FlowError: As in `run_main`; the workers of all processes count.
        ClusterError: This process can't be part of the cluster, or the job has failed and process 0
            has the reason.
        EngineRuntimeError: As in `run_main`.
    """
    if worker_count_per_proc < 1:
        msg = f"worker_count_per_proc must be at least 1; got {worker_count_per_proc!r}"
        raise ValueError(msg)
    if not 0 <= proc_id < max(1, len(addresses)):
        msg = f"proc_id must be the number of one of {len(addresses)} addresses; got {proc_id!r}"
        raise ValueError(msg)
    options = _options(epoch_interval, recovery_config, worker_count_per_proc, source_timeout)
    options.resources = resources
    if len(addresses) < 2:
        _run(flow, options, metrics)
        return
    try:
        secret = secret_of(os.environ.get("ENGINE_CLUSTER_SECRET", ""))
    except ValueError as ex:
        msg = f"ENGINE_CLUSTER_SECRET, which all processes of a cluster must be given: {ex}"
        raise ValueError(msg) from None
    from engine.runtime._cluster import run_cluster  # noqa: PLC0415

    where = tuple(Address.parse(address) for address in addresses)
    cluster = Cluster(where, proc_id, secret, None, worker_count_per_proc, _report)
    address = None if metrics is None or proc_id > 0 else Address.parse(metrics)
    with monitoring(address, options.clock, options.tell) as options.monitor:
        run_cluster(flow, cluster, options)


def _report(error: BaseException) -> str:
    import traceback  # noqa: PLC0415 - only a failure has to load it

    return "".join(traceback.format_exception(error))


def _options(
    epoch_interval: timedelta | None,
    recovery: RecoveryConfig | None,
    workers: int,
    source_timeout: timedelta,
) -> RunOptions:
    interval = DEFAULT_EPOCH_INTERVAL if epoch_interval is None else epoch_interval
    return RunOptions(interval, workers=workers, recovery=recovery, source_timeout=source_timeout)


def _run(flow: Dataflow, options: RunOptions, metrics: str | None) -> None:
    address = None if metrics is None else Address.parse(metrics)
    with monitoring(address, options.clock, options.tell) as options.monitor:
        run_flow(flow, options)
