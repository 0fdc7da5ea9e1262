"""Makes a step with actors on one worker: its table, what the store has of it, and its node."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from engine.operators.actors import Ref
from engine.operators.actors._actor import DEATHS_MAX
from engine.operators.actors._actor_op import ActorKernel
from engine.runtime._actor_node import ActorNode, ActorSite
from engine.runtime._actor_owners import ActorOwners
from engine.runtime._actor_state import MAIL_DUE_S, ActorState, is_mail_row, is_part
from engine.runtime._actor_table import ActorTable
from engine.runtime._ids import WorkerIndex
from engine.runtime._nodes import Target
from engine.runtime._store import Store
from engine.runtime._turn_watch import TurnWatch


def actor_table(
    step_id: str,
    kernel: ActorKernel,
    worker: tuple[WorkerIndex, int],
    chance: Callable[[], float],
) -> ActorTable:
    """The table of a step with actors on one worker.

    Args:
        step_id: The step.
        kernel: What the user said.
        worker: Its number, and how many there are.
        chance: Gives random numbers from 0 to 1.
    """
    index, workers = worker
    if workers == 1:
        return ActorTable(kernel.classes, step_id, chance)
    of_key = ActorOwners(workers).of_key

    def elsewhere(key: Any) -> int | None:
        owner = of_key(key)
        return None if owner == index else owner

    return ActorTable(kernel.classes, step_id, chance, elsewhere)


def actor_node(
    site: ActorSite,
    table: ActorTable,
    downs: tuple[Target, Target | None],
    inputs: int,
    store: Store | None,
) -> ActorNode:
    """The node of a step with actors, going on from what the store has of it.

    Args:
        site: What it has around it.
        table: Its table.
        downs: Where what actors emit and dead letters go; None for letters that nobody reads.
        inputs: How many edges lead to it.
        store: The worker's.
    """
    node = ActorNode(site, table, downs, inputs)
    if store is not None:
        stored = store.state(site.step_id)
        table.state.attach(stored)
        scan = functools.partial(_timers, store, site.step_id, table.state)
        table.state.alarms.attach(scan, site.now_s())
        due = store.timers(site.step_id, MAIL_DUE_S)
        calls = store.call_watch(site.step_id, 1, DEATHS_MAX)
        if calls.after_death:
            table.watch_turns(TurnWatch(calls))
        node.resume(key for _, key in due)
    return node


def _timers(
    store: Store, step_id: str, state: ActorState, until_s: float
) -> Iterator[tuple[float, Any]]:
    """The stored timers of actors that aren't in memory."""
    for due_s, key in store.timers(step_id, until_s):
        if not is_mail_row(key):
            address = Ref(key[2], key[0]) if is_part(key) else key
            if not state.knows(address):
                yield due_s, address
