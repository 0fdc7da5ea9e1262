"""Says of an exception which step it came from and what the step was working on.

The hot path keeps no notes for this. The traceback has all there is to know: the innermost frame
of the engine belongs to the step, and its local variables hold the record. In a fused run, the
line number says which step's line it was (`engine.runtime._fusion`).
"""

from __future__ import annotations

import linecache
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from engine.connectors import AbortExecution
from engine.errors import EngineRuntimeError, UserCodeError
from engine.operators._codegen import Site
from engine.operators._kernels import KeyedLogic
from engine.operators._shown import shortened
from engine.runtime._fusion import FUSED_FILE_PREFIX, SITES_NAME, SOURCE_NAME
from engine.runtime._nodes import Node

_STEP_CODE = ("engine.runtime.", "engine.operators.")
_RECORD_NAMES = ("record", "value", "values", "item")


@dataclass(slots=True)
class _Scene:
    """What the frames say so far; inner frames know better than outer ones."""

    step_id: str | None = None
    key: Any = None
    record: Any = None
    has_record: bool = False
    batch: list[Any] | None = None
    """What a keyed step is at."""

    def reset(self, step_id: str) -> None:
        """Another step begins."""
        self.step_id, self.key, self.record, self.has_record = step_id, None, None, False
        self.batch = None

    def find_key(self) -> None:
        """A step that looks at all values of a batch first has no key at hand for the one."""
        if self.key is None and self.has_record and isinstance(self.batch, list):
            for pair in self.batch:
                if pair.__class__ is tuple and len(pair) == 2 and pair[1] is self.record:
                    self.key = pair[0]
                    return


@contextmanager
def blaming(step_id: str, doing: str, *passing: type[Exception]) -> Generator[None]:
    """Turn an exception into an `EngineRuntimeError` that names the step and what it was doing.

    Those that are `passing` stay what they are.
    """
    own: tuple[type[Exception], ...] = (AbortExecution, EngineRuntimeError, *passing)
    try:
        yield
    except own:
        raise
    except Exception as ex:
        msg = f"step {step_id!r} failed while {doing}: {name_of(ex)}"
        raise EngineRuntimeError(msg, step_id=step_id, doing=doing) from ex


def explained(ex: BaseException) -> EngineRuntimeError:
    """The error that a run ends with, made of the exception that ended it, which is its cause."""
    if isinstance(ex, EngineRuntimeError):
        return ex
    ex = refusal_of(ex)
    _show_generated_lines(ex.__traceback__)
    scene = _look(ex.__traceback__)
    what = "the run" if scene.step_id is None else f"step {scene.step_id!r}"
    key = "" if scene.key is None else f" for key {shortened(scene.key)}"
    record = f" on {shortened(scene.record)}" if scene.has_record else ""
    error = EngineRuntimeError(
        f"{what} failed{key}{record}: {name_of(ex)}",
        step_id=scene.step_id,
        key=scene.key,
        record=scene.record,
        has_record=scene.has_record,
    )
    error.__cause__ = ex
    return error


def _show_generated_lines(traceback: TracebackType | None) -> None:
    """Have a traceback with the engine's frames in it show the lines that were generated."""
    for frame, _ in frames_of(traceback):
        filename = frame.f_code.co_filename
        if filename.startswith(FUSED_FILE_PREFIX):
            source: str = frame.f_globals[SOURCE_NAME]
            lines = source.splitlines(keepends=True)
            linecache.cache[filename] = (len(source), None, lines, filename)


def name_of(ex: BaseException) -> str:
    """An exception's type and message, whatever its `__str__` does."""
    try:
        text = str(ex).strip()
    except Exception as broken:  # noqa: BLE001 - a user's __str__ must not hide the error itself
        text = f"<its __str__ raises {type(broken).__name__}>"
    return f"{type(ex).__name__}: {text}" if text else type(ex).__name__


def frames_of(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    """Frames with line numbers, outermost first."""
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def is_step_code(frame: FrameType) -> bool:
    """Whether a frame is the engine's own code that runs steps."""
    if frame.f_code.co_filename.startswith(FUSED_FILE_PREFIX):
        return True
    return str(frame.f_globals.get("__name__", "")).startswith(_STEP_CODE)


def _look(traceback: TracebackType | None) -> _Scene:
    scene = _Scene()
    for frame, line in frames_of(traceback):
        if frame.f_code.co_filename.startswith(FUSED_FILE_PREFIX):
            _look_at_fused(scene, frame, frame.f_globals[SITES_NAME].get(line))
        elif is_step_code(frame):
            _look_at_node(scene, frame.f_locals)
    scene.find_key()
    return scene


def refusal_of(ex: BaseException) -> BaseException:
    """What a failed unpacking in a fused run means: the step's own words instead of Python's."""
    last = None
    for last in frames_of(ex.__traceback__):  # noqa: B007 - only the innermost frame counts
        pass
    if last is None or not last[0].f_code.co_filename.startswith(FUSED_FILE_PREFIX):
        return ex
    frame, line = last
    site: Site | None = frame.f_globals[SITES_NAME].get(line)
    if site is None or site.refuse is None or site.unpacked is None:
        return ex
    try:
        site.refuse(frame.f_locals[site.unpacked])
    except UserCodeError as refusal:
        return refusal.with_traceback(ex.__traceback__)
    return ex


def _look_at_fused(scene: _Scene, frame: FrameType, site: Site | None) -> None:
    if site is None:
        return
    scene.step_id = site.step_id
    scene.has_record = site.record in frame.f_locals
    scene.record = frame.f_locals.get(site.record)
    scene.key = None if site.key is None else frame.f_locals.get(site.key)


def _look_at_node(scene: _Scene, local: dict[str, Any]) -> None:
    """Nodes and keyed logics keep what they work on in locals of these names."""
    owner = local.get("self")
    step_id = owner.step_id if isinstance(owner, Node) else local.get("step_id")
    if isinstance(step_id, str):
        scene.reset(step_id)
    if isinstance(owner, Node | KeyedLogic) and "key" in local:
        scene.key = local["key"]
    if isinstance(owner, KeyedLogic) and "batch" in local:
        scene.batch = local["batch"]
    for name in _RECORD_NAMES:
        if name in local:
            scene.record, scene.has_record = local[name], True
