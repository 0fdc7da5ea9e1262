"""Runs what `engine.operators.tasks` names: tasks inline, on an event loop, threads and processes.

Each worker has one `Executors`, which its task nodes start theirs by.
"""

from engine.runtime.executors._executors import Executors

__all__ = ["Executors"]
