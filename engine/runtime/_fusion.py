"""Compiles a run of record kernels into one Python function from batch to batch.

See `engine.operators._codegen` for the form of the text. The function's globals keep the sites of
its lines, by which `engine.runtime._failure` names the step and the record of an exception.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engine.operators._codegen import RecordCode, Site, Value
from engine.operators._kernels import RecordKernel, StepContext

FUSED_FILE_PREFIX = "<engine fused run "
SITES_NAME = "__engine_sites__"
SOURCE_NAME = "__engine_source__"
_numbers = itertools.count()

_DEPTH_MAX = 12
"""Python refuses more than 20 loops inside each other."""

Loop = Callable[[list[Any]], list[Any]]
"""Takes a batch and gives the one that it becomes."""


def fuse(run: Sequence[tuple[RecordKernel, StepContext]]) -> Loop:
    """One function that takes a batch through all steps of a run, record by record.

    The records of a batch are worked on in their order, each going through all steps before the
    next one begins. Only a run of very many `flat_map`s is cut into several such loops.
    """
    loops = [_compile(code) for code in _written(run)]
    if len(loops) == 1:
        return loops[0]

    def run_all(batch: list[Any]) -> list[Any]:
        for loop in loops:
            batch = loop(batch)
        return batch

    return run_all


def _written(run: Sequence[tuple[RecordKernel, StepContext]]) -> Iterator[RecordCode]:
    """The bodies of the loops, one as a rule."""
    code = RecordCode()
    value: Value | None = Value("record")
    for kernel, step in run:
        assert value is not None, "only the last step of a run may emit nothing"  # noqa: S101
        if code.depth > _DEPTH_MAX:
            code.line(f"out.append({code.expression(value)})")
            yield code
            code, value = RecordCode(), Value("record")
        code.begin_step(step.step_id, value, None if step.failures is None else step.failures.take)
        value = kernel.write(code, value, step)
        code.end_step()
    if value is not None:
        code.line(f"out.append({code.expression(value)})")
    yield code


def _compile(code: RecordCode) -> Loop:
    # Bound objects become default arguments, which are locals: the fastest names there are.
    defaults = "".join(f", {name}={name}" for name in code.bound)
    head = [f"def run(batch{defaults}):", "    out = []", *code.first_lines]
    head.append("    for record in batch:")
    source = "\n".join([*head, *code.lines, "    return out", ""])
    filename = f"{FUSED_FILE_PREFIX}{next(_numbers)}>"
    sites: dict[int, Site] = dict(enumerate(code.sites, len(head) + 1))
    namespace: dict[str, Any] = {**code.bound, SITES_NAME: sites, SOURCE_NAME: source}
    exec(compile(source, filename, "exec"), namespace)  # noqa: S102 - the text is ours alone
    # Taken out of its own globals, or it would live until the garbage collector comes.
    run: Loop = namespace.pop("run")
    return run
