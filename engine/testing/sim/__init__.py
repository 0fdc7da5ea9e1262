"""A simulator: runs a flow in one thread under a fake clock and a seeded scheduler.

It finds what threads and sockets hide: orders of events that are legal and rare. A failing seed
replays the same run.
"""

from engine.testing.sim._options import SimOptions, SimResult, SimulationError
from engine.testing.sim._simulation import simulate

__all__ = ["SimOptions", "SimResult", "SimulationError", "simulate"]
