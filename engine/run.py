"""``python -m engine.run module:flow``: run a dataflow from the command line.

Reads options and environment, imports the user's module, runs its flow on this process with
signals handled, and says by one readable block and the exit code how that ended. Standard output
belongs to the flow: everything said here goes to standard error.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine._cli.arguments import exit_code_of
from engine._cli.exits import Exit, say
from engine._cli.imports import load_flow
from engine._cli.output import finished, nobody_reads
from engine._cli.run_command import RunCommand, parse_run_command
from engine._cli.signals import StopNow, StopSignals
from engine.dataflow import Dataflow
from engine.errors import (
    AddressError,
    EngineRuntimeError,
    FlowError,
    ImportStringError,
    StoreError,
)
from engine.runtime import (
    Address,
    Cluster,
    Drain,
    Launch,
    ReportedError,
    RunOptions,
    SystemWaiter,
    explained,
    monitoring,
    run_flow,
)

if TYPE_CHECKING:
    from engine.runtime._questions import Desk

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a flow as the command line says; gives the exit code.

    Args:
        argv: The arguments, without the command itself; those of this process if left out.
    """
    return exit_code_of(lambda: _execute(parse_run_command(argv, os.environ)))


def _execute(command: RunCommand) -> int:
    try:
        code = _load_and_run(command)
    except KeyboardInterrupt:
        # While the user's module was imported, or from the flow's own code: nothing can drain.
        say("KeyboardInterrupt")
        code = Exit.INTERRUPTED
    return finished(code)


def _load_and_run(command: RunCommand) -> int:
    flow: Dataflow | None = None
    try:
        flow = load_flow(command.import_str)
        return _run(flow, command)
    except (ImportStringError, FlowError, AddressError) as ex:
        return _failed(ex, flow, command, Exit.MISUSED)
    except (EngineRuntimeError, StoreError) as ex:
        return _failed(ex, flow, command, Exit.FAILED)
    except SystemExit as ex:
        # The flow's own code has called `sys.exit`. Its code may be 0, but the run isn't done.
        return _failed(explained(ex), flow, command, Exit.FAILED)
    except Exception as ex:  # noqa: BLE001 - nothing else should come; if it does, it is reported
        return _failed(ex, flow, command, Exit.FAILED)


def _run(flow: Dataflow, command: RunCommand) -> int:
    drain, waiter = Drain(), SystemWaiter()

    def request_drain() -> None:
        drain.requested = True
        waiter.wake()

    def tell(line: str) -> None:
        say(f"info: {line}")

    options = RunOptions(
        epoch_interval=command.epoch_interval,
        drain=drain,
        waiter=waiter,
        workers=command.layout.workers,
        recovery=command.recovery,
        tell=tell,
        source_timeout=command.source_timeout,
        resources=command.resources,
    )
    signals = StopSignals(request_drain, command.drain_timeout.total_seconds())
    try:
        with (
            signals.watching(),
            monitoring(_metrics_of(command), options.clock, tell) as options.monitor,
            _asking(flow, command, options) as options.desk,
        ):
            _start(flow, command, options)
    except StopNow as ex:
        if signals.overdue:
            _say_overdue(ex, command)
        return signals.stopped_code
    return signals.drained_code


def _metrics_of(command: RunCommand) -> Address | None:
    """Where this process serves the metrics; of a cluster, only the one that leads does."""
    return command.metrics if command.place is None or command.place.process == 0 else None


def _asking(
    flow: Dataflow, command: RunCommand, options: RunOptions
) -> contextlib.AbstractContextManager[Desk | None]:
    """Where this process takes questions about actors; of a cluster, only the leading one does."""
    if command.ask is None or (command.place is not None and command.place.process):
        return contextlib.nullcontext()
    # Loads what most runs don't need.
    from engine.runtime._actor_endpoint import serving_actors  # noqa: PLC0415

    return serving_actors(command.ask, flow, options.waiter.wake, options.tell)


def _start(flow: Dataflow, command: RunCommand, options: RunOptions) -> None:
    """Run it in as many processes as it is to have. Each way loads what it needs alone."""
    place = command.place
    if place is not None:
        from engine._cli.report import report  # noqa: PLC0415
        from engine.runtime._cluster import run_cluster  # noqa: PLC0415

        cluster = Cluster(
            *(place.addresses, place.process, place.secret, place.tls),
            command.layout.workers_each,
            lambda error: report(error, flow=flow, verbose=command.verbose),
        )
        run_cluster(flow, cluster, options)
    elif command.layout.processes > 1:
        from engine.runtime._supervise import run_processes  # noqa: PLC0415

        launch = Launch(command.import_str, command.layout, command.verbose)
        run_processes(flow, launch, options)
    else:
        run_flow(flow, options)


def _failed(error: BaseException, flow: Dataflow | None, command: RunCommand, code: Exit) -> Exit:
    # The report reads source files and the like, which only a failure has to pay for.
    from engine._cli.report import report, root_of  # noqa: PLC0415

    if isinstance(error, ReportedError):
        say(error.report)
        return code
    if nobody_reads(root_of(error)):
        return Exit.BROKEN_PIPE
    say(report(error, flow=flow, verbose=command.verbose))
    return code


def _say_overdue(error: StopNow, command: RunCommand) -> None:
    from engine._cli.frames import user_places  # noqa: PLC0415 (as above)

    text = (
        f"error: the drain was not over after {command.drain_timeout.total_seconds():g} s, so the "
        "run was stopped"
    )
    for place in user_places(error.__traceback__, 1):
        text += f"\n  at:     {place}\n              {place.source}"
    say(f"{text}\n  hint:   give it more time with --drain-timeout")


if __name__ == "__main__":
    sys.exit(main())
