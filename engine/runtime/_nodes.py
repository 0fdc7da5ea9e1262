"""The moving parts of a stage: a node per step (or per fused run of steps) on one worker.

Nodes hand batches on by calling each other: `Target.push` with a non-empty list, `Target.end`
once when no more will come. A barrier needs no handing on within a stage, because nothing is
under way between two of its nodes when no call is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.dataflow import f_repr
from engine.errors import UserCodeError
from engine.operators._kernels import (
    BatchKernel,
    BranchKernel,
    KeyedLogic,
    RecordKernel,
    StepContext,
    not_a_bool_raiser,
)
from engine.operators._shown import shown
from engine.runtime._counts import StepCounts

Push = Callable[[list[Any]], None]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a node's output goes."""

    push: Push
    end: Callable[[], None]


Aside = tuple[list[Any], Target]
"""What a step has emitted on an output other than its first one, and where that goes."""


def push_asides(asides: Sequence[Aside]) -> None:
    """Hand on what a step has emitted on its other outputs."""
    for aside, target in asides:
        if aside:
            target.push(aside.copy())
            aside.clear()


def fan_out(targets: Sequence[Target]) -> Target:
    """One target that stands for all of them, in their order; with none, records are dropped.

    Each gets a list of its own, with the same records: a `flat_map_batch` may change the list that
    it is given, a sink may keep it.
    """
    if len(targets) == 1:
        return targets[0]
    pushes, ends = [t.push for t in targets], [t.end for t in targets]

    def push(batch: list[Any]) -> None:
        for to in pushes:
            to(batch.copy())

    def end() -> None:
        for to in ends:
            to()

    return Target(push, end)


class Node:
    """What all nodes have: a step to name in errors, and an end that comes once per input."""

    def __init__(self, step_id: str, inputs: int) -> None:
        self.step_id = step_id
        self._inputs_open = inputs
        self.ended = False
        """All inputs have ended."""

    def end_input(self) -> None:
        """One of the inputs has ended; after the last, finish and hand the end on."""
        self._inputs_open -= 1
        if self._inputs_open == 0:
            self.ended = True
            self.finish()

    def finish(self) -> None:
        """All inputs have ended."""
        raise NotImplementedError


class RunNode(Node):
    """A fused run of record kernels.

    Args:
        run: The kernels, each with its step.
        fused: The loop that was made of them.
        down: Where the last one's output goes.
        inputs: How many edges lead here.
        asides: What the loop fills for other outputs that are read, and where each of them goes.
    """

    def __init__(
        self,
        run: Sequence[tuple[RecordKernel, StepContext]],
        fused: Callable[[list[Any]], list[Any]],
        down: Target,
        inputs: int,
        asides: Sequence[Aside] = (),
    ) -> None:
        self._last_kernel, self._last_step = run[-1]
        super().__init__(self._last_step.step_id, inputs)
        self._down = down
        self._asides = asides
        down_push = down.push

        def push(batch: list[Any]) -> None:
            out = fused(batch)
            if out:
                down_push(out)

        def push_both_ways(batch: list[Any]) -> None:
            push(batch)
            push_asides(asides)

        first_kernel, first_step = run[0]
        prefetch, work = first_step.state.prefetch, push_both_ways if asides else push

        def fetch_and_work(batch: list[Any]) -> None:
            prefetch(batch)
            work(batch)

        self.push: Push = fetch_and_work if first_kernel.prefetches(first_step) else work

    def finish(self) -> None:
        """Emit what the last step kept for the end of input."""
        if self._last_kernel.final:
            emitted = self._last_kernel.emit_final(self._last_step)
            if emitted:
                self._down.push(emitted)
        self._down.end()
        for _, target in self._asides:
            target.end()


class BatchNode(Node):
    """A function from batch to iterable.

    Args:
        step: The step.
        kernel: The function.
        down: Where its output goes.
        inputs: How many edges lead here.
        asides: What the step has for other outputs.
    """

    def __init__(
        self,
        step: StepContext,
        kernel: BatchKernel,
        down: Target,
        inputs: int,
        asides: Sequence[Aside] = (),
    ) -> None:
        super().__init__(step.step_id, inputs)
        self._mapper = kernel.mapper
        self._down = down
        self._asides = asides
        self._failures = step.failures
        self.push: Push = self._push if step.failures is None else self._push_what_works

    def _push(self, batch: list[Any]) -> None:
        """Apply the function."""
        out: Any = self._mapper(batch)
        if out.__class__ is not list:
            out = self._as_list(out)
        if out:
            self._down.push(out)

    def _push_what_works(self, batch: list[Any]) -> None:
        """Apply the function, and go on without the batch if it raises."""
        assert self._failures is not None  # noqa: S101
        # The function may change the list.
        kept = batch.copy()
        try:
            out = self._as_list(self._mapper(batch))
        except Exception as ex:
            if not self._failures.take_all(ex, kept):
                raise
            out = []
        if out:
            self._down.push(out)
        push_asides(self._asides)

    def _as_list(self, result: Any) -> list[Any]:
        try:
            items = iter(result)
        except TypeError as ex:
            msg = (
                f"what {f_repr(self._mapper)} returns for a batch must be an iterable; "
                f"got {shown(result)}"
            )
            raise UserCodeError(msg, function=self._mapper, hint="return a list") from ex
        return list(items)

    def finish(self) -> None:
        """Hand the end on."""
        self._down.end()
        for _, target in self._asides:
            target.end()


class BranchNode(Node):
    """Sends each record down one of two ways.

    Args:
        step: The step.
        kernel: The predicate.
        ways: Where records go for which it holds, and where the others go.
        inputs: How many edges lead here.
        asides: What the step has for other outputs.
    """

    def __init__(
        self,
        step: StepContext,
        kernel: BranchKernel,
        ways: tuple[Target, Target],
        inputs: int,
        asides: Sequence[Aside] = (),
    ) -> None:
        super().__init__(step.step_id, inputs)
        self._predicate = kernel.predicate
        self._refuse = not_a_bool_raiser(kernel.predicate)
        self._trues, self._falses = ways
        self._asides = asides
        self._failures = step.failures
        self.push: Push = self._push if step.failures is None else self._push_what_works

    def _push_what_works(self, batch: list[Any]) -> None:
        """Divide a batch, and go on without the records that the predicate raises for."""
        assert self._failures is not None  # noqa: S101
        predicate, ways = self._predicate, {True: list[Any](), False: list[Any]()}
        for record in batch:
            try:
                holds: Any = predicate(record)
                if holds is not True and holds is not False:
                    self._refuse(holds)
            except Exception as ex:
                if not self._failures.take(ex, record):
                    raise
            else:
                ways[holds].append(record)
        for target, records in ((self._trues, ways[True]), (self._falses, ways[False])):
            if records:
                target.push(records)
        push_asides(self._asides)

    def _push(self, batch: list[Any]) -> None:
        """Divide a batch; the records that hold go first."""
        predicate = self._predicate
        trues: list[Any] = []
        falses: list[Any] = []
        for record in batch:
            holds = predicate(record)
            if holds is True:
                trues.append(record)
            elif holds is False:
                falses.append(record)
            else:
                self._refuse(holds)
        if trues:
            self._trues.push(trues)
        if falses:
            self._falses.push(falses)

    def finish(self) -> None:
        """Hand the end on, both ways."""
        self._trues.end()
        self._falses.end()
        for _, target in self._asides:
            target.end()


class PassNode(Node):
    """A step that changes nothing on one worker: `merge`, and `redistribute` after its exchange."""

    def __init__(self, step_id: str, down: Target, inputs: int) -> None:
        super().__init__(step_id, inputs)
        self.push: Push = down.push
        self._down = down

    def finish(self) -> None:
        """Hand the end on."""
        self._down.end()


def _no_clocks() -> None:
    """Nothing follows."""


class KeyedNode(Node):
    """A keyed step with inputs of its own kinds, or with timers."""

    def __init__(
        self,
        step: StepContext,
        logic: KeyedLogic,
        down: Target,
        inputs: int,
        asides: Sequence[Aside] = (),
        counts: StepCounts | None = None,
    ) -> None:
        super().__init__(step.step_id, inputs)
        self.logic = logic
        self._on_notify = logic.on_notify if counts is None else counts.timing(logic.on_notify)
        self._state = step.state
        self._down = down
        self.clocks: dict[int, Callable[[int | None], None]] = {}
        """By port: takes the latest time of each batch, where a clock stands right before it."""
        self.flush: Callable[[], object] = _no_clocks
        """What follows when something has been emitted that clocks of the stage may have noted."""
        self._asides = asides

    def port(self, number: int) -> Push:
        """The function that takes batches of one input."""
        push = self._clocked_port(number) if number in self.clocks else self._port(number)
        picks, asides = self.logic.picks, self._asides
        if picks is None:
            return push

        def push_picked(batch: list[Any], step_id: str = self.step_id) -> None:  # noqa: ARG001 - as below
            picked = picks(number, batch)
            if picked:
                push(picked)
            else:
                push_asides(asides)

        return push_picked

    def _port(self, number: int) -> Push:
        on_batch, down_push, prefetch = self.logic.on_batch, self._down.push, self._state.prefetch
        asides = self._asides

        # `step_id` is a local for `engine.runtime._failure` to find in the frame.
        def push(batch: list[Any], step_id: str = self.step_id) -> None:  # noqa: ARG001
            prefetch(batch)
            out = on_batch(number, batch)
            if out:
                down_push(out)
            if asides:
                push_asides(asides)

        return push

    def _clocked_port(self, number: int) -> Push:
        logic, down_push, prefetch = self.logic, self._down.push, self._state.prefetch
        on_batch, note, asides = logic.on_batch, self.clocks[number], self._asides

        def push(batch: list[Any], step_id: str = self.step_id) -> None:  # noqa: ARG001 - as above
            prefetch(batch)
            logic.batch_latest_us = None
            out = on_batch(number, batch)
            note(logic.batch_latest_us)
            if out:
                down_push(out)
            if asides:
                push_asides(asides)

        return push

    def notify(self) -> None:
        """Fire the timers that are due."""
        self._emit(self._on_notify())
        self.flush()

    def raise_watermark(self, at_us: int) -> None:
        """Tell the step how far event time is."""
        self._emit(self.logic.on_watermark(at_us))

    def finish(self) -> None:
        """Emit what the step has to say at the end of input; its timers are of no use any more."""
        self._emit(self.logic.on_eof())
        self._down.end()
        for _, target in self._asides:
            target.end()

    def _emit(self, out: list[Any]) -> None:
        if out:
            self._down.push(out)
        push_asides(self._asides)
