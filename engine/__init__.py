"""A streaming dataflow engine for Python.

A user builds a `Dataflow` (`engine.dataflow`) out of operators (`engine.operators`) between
sources and sinks (`engine.connectors`) and runs it with ``python -m engine.run module:flow``.
The package itself exports only its version, so that importing one part does not pay for all.
"""

from engine._version import __version__

__all__ = ["__version__"]
