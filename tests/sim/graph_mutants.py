"""Ways to break task graphs, each of which a seed must bring to light."""

from __future__ import annotations

from typing import Any

import pytest

from engine.operators.tasks import Completion, Kind
from engine.runtime._graph_calls import GraphCall, State, Wait
from engine.runtime._task_graph import TaskGraphs
from tests.sim.graphs import check_graphs
from tests.sim.mutant import Mutant

Patch = pytest.MonkeyPatch


def _parents_keep_their_place(patch: Patch) -> None:
    """A call that waits counts as running."""
    leave = TaskGraphs._leave_place

    def stay(self: TaskGraphs, call: GraphCall) -> None:
        leave(self, call)
        if call.state is State.RUNNING and call.call_id in self._live:
            self._running += 1

    patch.setattr(TaskGraphs, "_leave_place", stay)


def _parents_keep_their_resources(patch: Patch) -> None:
    leave = TaskGraphs._leave_place

    def keep(self: TaskGraphs, call: GraphCall) -> None:
        if call.call_id in self._live:
            resources, call.resources = call.resources, None
            leave(self, call)
            call.resources = resources
        else:
            leave(self, call)

    patch.setattr(TaskGraphs, "_leave_place", keep)


def _go_on_without_a_place(patch: Patch) -> None:
    patch.setattr(TaskGraphs, "_may_go_on", lambda _self, _call: True)


def _begin_before_what_is_needed(patch: Patch) -> None:
    patch.setattr(TaskGraphs, "_has_all", lambda _self, _call: True)


def _over_before_its_subtasks(patch: Patch) -> None:
    end = TaskGraphs._end_if_all_have

    def at_once(self: TaskGraphs, call: GraphCall) -> None:
        call.open = 0
        end(self, call)

    patch.setattr(TaskGraphs, "_end_if_all_have", at_once)


def _siblings_run_on(patch: Patch) -> None:
    """A failure gives up nobody: what is gathered with it still fails the parent, or blocks it."""
    patch.setattr(TaskGraphs, "_give_up_rest", lambda _self, _wait: None)


def _subtasks_of_what_is_given_up_run_on(patch: Patch) -> None:
    def forget(self: TaskGraphs, call: GraphCall, *, at_once: bool = False) -> None:
        del self, at_once
        call.children.clear()
        call.open = 0

    patch.setattr(TaskGraphs, "_stop_children", forget)


def _late_ends_count(patch: Patch) -> None:
    """What comes of a call that was given up, though it keeps its place until then."""
    take = TaskGraphs._take_completion

    def as_wanted(self: TaskGraphs, completion: Completion) -> None:
        call = self._live.get(completion.call_id)
        if call is not None:
            call.unwanted = False
        take(self, completion)

    patch.setattr(TaskGraphs, "_take_completion", as_wanted)


def _dead_subtasks_not_tried_again(patch: Patch) -> None:
    def over(self: TaskGraphs, call: GraphCall, error: Any) -> None:
        self._end(call, Kind.DIED, error)
        call.state = State.BLOCKED

    patch.setattr(TaskGraphs, "_died", over)


def _lost_results_not_made_again(patch: Patch) -> None:
    patch.setattr(TaskGraphs, "_run_again", lambda _self, _lost, _name: None)


def _results_never_freed(patch: Patch) -> None:
    patch.setattr(TaskGraphs, "_let_go", lambda _self, _call: None)


def _results_freed_too_early(patch: Patch) -> None:
    """Though others still need them."""
    forget = TaskGraphs._forget

    def careless(self: TaskGraphs, call: GraphCall) -> None:
        users, call.users_open = call.users_open, 0
        forget(self, call)
        call.users_open = users

    patch.setattr(TaskGraphs, "_forget", careless)


def _answers_in_another_order(patch: Patch) -> None:
    init = Wait.__init__

    def turned(self: Wait, call: GraphCall, request: Any) -> None:
        init(self, call, request._replace(numbers=request.numbers[::-1]))

    patch.setattr(Wait, "__init__", turned)


def _more_than_the_limit(patch: Patch) -> None:
    turn = TaskGraphs._turn

    def eager(self: TaskGraphs) -> None:
        running, self._running = self._running, 0
        turn(self)
        self._running += running

    patch.setattr(TaskGraphs, "_turn", eager)


GRAPH_MUTANTS = [
    Mutant(function.__name__.strip("_").replace("_", " "), function, check_graphs)
    for function in (
        _parents_keep_their_place,
        _parents_keep_their_resources,
        _go_on_without_a_place,
        _begin_before_what_is_needed,
        _over_before_its_subtasks,
        _siblings_run_on,
        _subtasks_of_what_is_given_up_run_on,
        _late_ends_count,
        _dead_subtasks_not_tried_again,
        _lost_results_not_made_again,
        _results_never_freed,
        _results_freed_too_early,
        _answers_in_another_order,
        _more_than_the_limit,
    )
]
