"""Who runs a workload: the bare loops and the engines with Bytewax's public API.

A workload's graph names only what an `Engine` holds, so the same lines build it on each engine.
Where one engine is measured in several ways, each is a contender of its own: `engine-1s` is a
variant of `engine`. Used by the workloads (to build flows) and by `measure.py` (to know who is
installed).
"""

from __future__ import annotations

import importlib
import types
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeVar

BARE_UDF = "bare-udf"
BARE = "bare"
ENGINES = ("engine", "bytewax")
QUIX = "quixstreams"
"""Has an API of its own, so it runs only workloads that are written for it."""
RAY, DASK = "ray", "distributed"
"""Run functions in processes: contenders of tasks, and Ray of actors. The latter is Dask's."""
PYKKA, THESPIAN = "pykka", "thespian"
"""Have actors and nothing else."""
OTHERS = (QUIX, RAY, DASK, PYKKA, THESPIAN)

Part = TypeVar("Part")


def family_of(contender: str) -> str:
    """The contender that another one is a variant of; most are nobody's.

    >>> family_of("engine-1s"), family_of("bare-udf")
    ('engine', 'bare-udf')
    """
    return next((name for name in ENGINES if contender.startswith(f"{name}-")), contender)


def is_installed(contender: str) -> bool:
    """Say whether a contender can run here. The bare loops always can."""
    family = family_of(contender)
    return family not in (*ENGINES, *OTHERS) or find_spec(family) is not None


@dataclass(frozen=True, slots=True)
class Engine:
    """The parts of one engine's public API that the workloads use.

    The modules are found by name at run time, so their members are `Any` to the type checker.
    """

    dataflow: Any
    operators: Any
    inputs: Any
    outputs: Any
    recovery: Any
    testing: Any

    def source_part(self, implementation: type[Part], *args: Any) -> Part:
        """Make a source's partition, `implementation(*args)`, in this engine's terms."""
        return _under(implementation, self.inputs.StatelessSourcePartition)(*args)

    def source(self, part: object) -> Any:
        """Make a source of one partition in this engine's terms."""
        return _under(_OnePart, self.inputs.DynamicSource)(part)

    def sink_part(self, implementation: type[Part], *args: Any) -> Part:
        """Make a sink's partition, `implementation(*args)`, in this engine's terms."""
        return _under(implementation, self.outputs.StatelessSinkPartition)(*args)

    def sink(self, part: object) -> Any:
        """Make a sink of one partition in this engine's terms."""
        return _under(_OnePart, self.outputs.DynamicSink)(part)

    def new_store(self, folder: str) -> Any:
        """Make an empty folder a recovery store, and say to a run that it is to be used."""
        self.recovery.init_db_dir(folder, 1)
        return self.recovery.RecoveryConfig(folder)


class _OnePart:
    """A dynamic source or sink with one partition, for a run of one worker."""

    def __init__(self, part: object) -> None:
        self._part = part

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> object:
        return self._part


def load_engine(package: str) -> Engine:
    """Import an engine's modules; raises `ImportError` if it is not installed."""
    names = ("dataflow", "operators", "inputs", "outputs", "recovery", "testing")
    return Engine(*(importlib.import_module(f"{package}.{name}") for name in names))


def _under(implementation: type[Part], contract: type[Any]) -> type[Part]:
    """Put a plain class under an engine's own abstract class, which its checks ask for."""
    return types.new_class(implementation.__name__, (implementation, contract))
