"""Runs a flow on simulated workers, under a fake clock and a scheduler that draws by a seed."""

from __future__ import annotations

from engine.clock import clock_set_to
from engine.connectors import AbortExecution
from engine.dataflow import Dataflow
from engine.operators.tasks import Resources
from engine.runtime import check_demands, check_kept, closing, explained, plan
from engine.testing.sim._gang import Gang
from engine.testing.sim._options import SimOptions, SimResult, SimulationError


def simulate(flow: Dataflow, seed: int, options: SimOptions | None = None) -> SimResult:
    """Run a flow under a fake clock and a scheduler that draws by a seed what goes next.

    Functions of the flow run as in any run; `engine.clock.utc_now`, which the testing sources and
    the engine's operators read, shows simulated time.

    Args:
        flow: What to run, until its input ends.
        seed: The same seed gives the same run, if the flow itself is deterministic.
        options: What to simulate.

    Raises:
        EngineRuntimeError: The run ended because of an error, as in `run_main`. A note tells the
            seed.
        FlowError: The flow has no input or no output, or a task takes more than workers offer.
        SimulationError: The run got stuck or did not end.

    >>> from datetime import timedelta
    >>> import engine.operators as op
    >>> from engine.testing import TestingSink, TestingSource
    >>> flow, out = Dataflow("doc"), []
    >>> s = op.input("in", flow, TestingSource([1, TestingSource.PAUSE(timedelta(days=1)), 2]))
    >>> op.output("out", s, TestingSink(out))
    >>> simulate(flow, seed=7).elapsed.days
    1
    >>> out
    [1, 2]
    """
    options = options or SimOptions()
    planned = plan(flow, options.workers, kernels=options.kernels)
    check_kept(planned)
    check_demands(planned, options.offers or (Resources(),) * options.workers)
    simulation = Gang(planned, seed, options)
    try:
        with clock_set_to(simulation.now), closing(simulation.workers):
            simulation.run()
    except SimulationError:
        raise
    except AbortExecution:
        simulation.result.aborted = True
    except Exception as ex:  # noqa: BLE001 - whatever it is, the run ended because of it
        error = explained(ex)
        error.add_note(f"in a simulation with seed {seed}")
        raise error from error.__cause__
    return simulation.result
