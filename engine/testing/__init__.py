"""The test kit: run flows from Python, with lists as sources and sinks and a clock to set.

Public and kept stable like the rest of the API. `engine.testing.sim` runs a flow under a seeded
scheduler and a fake clock.
"""

from engine.testing._kit import TestingSink, TimeTestingGetter, poll_next_batch
from engine.testing._runs import cluster_main, run_main
from engine.testing._source import TestingSource, ffwd_iter
from engine.testing._tasks import run_tasks

__all__ = [
    "TestingSink",
    "TestingSource",
    "TimeTestingGetter",
    "cluster_main",
    "ffwd_iter",
    "poll_next_batch",
    "run_main",
    "run_tasks",
]
