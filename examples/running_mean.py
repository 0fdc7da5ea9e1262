"""Running mean: each reading of a few sensors next to the mean of all that its sensor gave.

Shows several sources read side by side (`merge`), state per key (`stateful_map`), and a flow that a
function makes, so that the command line can set its size.

Run it from the top of the project; the second line takes a hundred readings as fast as it can::

    python -m engine.run examples.running_mean:flow
    python -m engine.run 'examples.running_mean:means(readings=100, every_s=0)'
"""

from __future__ import annotations

from datetime import timedelta

import engine.operators as op
from engine.connectors.demo import RandomMetricSource
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow

SENSORS = ("attic", "cellar", "garden")

Mean = tuple[int, float]
"""How many readings a mean is of, and the mean."""


def means(readings: int = 5, every_s: float = 0.2) -> Dataflow:
    """Make a flow that prints sensor, reading and mean.

    Args:
        readings: How many readings each sensor gives.
        every_s: Time between the readings of a sensor, in seconds.
    """
    flow = Dataflow("running_mean")
    interval = timedelta(seconds=every_s)
    sensors = [
        op.input(name, flow, RandomMetricSource(name, interval, count=readings)) for name in SENSORS
    ]
    # The sources give pairs of sensor and reading, which is what a keyed stream is made of.
    merged = op.merge("merge", *sensors)
    with_means = op.stateful_map("mean", merged, with_mean)
    lines = op.map("line", with_means, line_of)
    op.output("out", lines, StdOutSink())
    return flow


def with_mean(before: Mean | None, reading: float) -> tuple[Mean, tuple[float, float]]:
    """The mean of a sensor with one more reading: as its new state, and next to the reading."""
    count, mean = before or (0, 0.0)
    count += 1
    mean += (reading - mean) / count
    return (count, mean), (reading, mean)


def line_of(item: tuple[str, tuple[float, float]]) -> str:
    """A reading as a line of text."""
    sensor, (reading, mean) = item
    return f"{sensor}: {reading:.1f}, mean {mean:.2f}"


flow = means()
