"""What a start finds in its store to be done about dead letters.

``python -m engine.dlq`` leaves requests in the store's folder
(`engine.recovery._letter_requests`). Before the plan is made only their presence counts; when the
store is open, and its letters can be read, they become orders for the workers.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.operators._kernels import InputKernel
from engine.recovery._disk import Disk
from engine.recovery._letter_requests import read_requests, remove_requests
from engine.recovery._overlay import Missing
from engine.recovery._worker_store import WorkerStore
from engine.runtime._plan import Plan
from engine.runtime._planned_letters import keeper_of
from engine.runtime._replays import LetterOrder, ReplaySource


@dataclass(frozen=True, slots=True)
class LetterDesk:
    """Where requests lie, and whom to tell about those that can't be met."""

    disk: Disk
    root: Path
    tell: Callable[[str], None]


def orders_of(desk: LetterDesk, planned: Plan, stores: Sequence[WorkerStore]) -> list[LetterOrder]:
    """What is to be done about letters that are in the store still; none if the plan can't.

    Requests about letters that are gone have been met, and are removed.
    """
    keeper = keeper_of(planned.steps)
    if keeper is None or not replays(planned):
        return []
    takers = {step.inner_id for step in planned.steps if step.letters is not None}
    orders: dict[str, LetterOrder] = {}
    met: list[str] = []
    for name, request in read_requests(desk.disk, desk.root).items():
        there = False
        for letter_id in request.letter_ids:
            kept = next((k for s in stores if (k := _kept(s, keeper, letter_id)) is not None), None)
            if kept is None:
                continue
            there = True
            step_id, record, port = kept
            if request.action == "drop":
                orders[letter_id] = LetterOrder(letter_id, None, b"")
            elif problem := _problem(step_id, record, takers):
                desk.tell(f"dead letter {letter_id} can't be put back, and stays: {problem}")
            elif record is not None:
                orders.setdefault(letter_id, LetterOrder(letter_id, step_id, record, port))
        if not there:
            met.append(name)
    remove_requests(desk.disk, desk.root, met)
    put_back = sum(order.step_id is not None for order in orders.values())
    if orders:
        desk.tell(
            f"of the dead letters in the store {put_back:,} are put back, and "
            f"{len(orders) - put_back:,} forgotten"
        )
    return list(orders.values())


def replays(planned: Plan) -> bool:
    """Whether a plan begins with requests about letters."""
    return any(
        isinstance(step.kernel, InputKernel) and isinstance(step.kernel.source, ReplaySource)
        for step in planned.steps
    )


def _kept(store: WorkerStore, keeper: str, letter_id: str) -> tuple[str, bytes | None, int] | None:
    """The step, the record and the input of a letter; None if the store hasn't got it."""
    row = store.get_row(keeper, letter_id)
    if isinstance(row, Missing):
        return None
    # Letters that were kept before joins had any say nothing of the input.
    return row.value["step_id"], row.value["record"], row.value.get("port", 0)


def _problem(step_id: str, record: bytes | None, takers: set[str]) -> str | None:
    """Why a letter can't be put back; None if it can."""
    if step_id not in takers:
        return f"the flow has no step {step_id!r} with dead letters any more"
    if record is None:
        return "its record could not be pickled, so there is only its text"
    try:
        pickle.loads(record)  # noqa: S301 - written by a run of this flow, into its own store
    except Exception as ex:  # noqa: BLE001 - a user's class may raise anything, or be gone
        return f"its record can't be read: {type(ex).__name__}: {ex}"
    return None
