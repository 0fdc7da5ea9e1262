"""Ways to break going on after errors, each of which a seed must bring to light."""

from __future__ import annotations

from typing import Any

import pytest

from engine.operators import _stateful_going_on
from engine.operators._kept_letters import _Keeping
from engine.operators._state import KeyedState
from engine.operators._state_ttl import ExpiringState
from engine.operators.windowing import _aligned_going_on, _windows_going_on
from engine.operators.windowing._aligned_going_on import AlignedGoingOn
from engine.operators.windowing._panes import Pane
from engine.operators.windowing._windows_going_on import WindowsGoingOn
from engine.runtime import _letter_orders, _recovery
from engine.runtime._failures import FailureSite, StepFailures
from engine.runtime._letter_orders import LetterDesk
from engine.runtime._replays import LetterOrder, ReplayPart
from tests.sim.failures import check_failures
from tests.sim.mutant import Mutant

Patch = pytest.MonkeyPatch


def _states_of_records_left_out_not_put_back(patch: Patch) -> None:
    patch.setattr(KeyedState, "put_back", lambda *_: None)


def _letters_put_back_stay_in_the_store(patch: Patch) -> None:
    on_batch = _Keeping.on_batch

    def keep_all(self: _Keeping, port: int, batch: list[Any]) -> list[Any]:
        return on_batch(self, port, batch) if port == 0 else []

    patch.setattr(_Keeping, "on_batch", keep_all)


def _letters_put_back_by_every_worker(patch: Patch) -> None:
    """Not by the first alone."""
    given: list[list[LetterOrder]] = []
    orders_of = _letter_orders.orders_of

    def noting(desk: LetterDesk, *args: Any) -> list[LetterOrder]:
        given.append(orders_of(desk, *args))
        return given[-1]

    init = ReplayPart.__init__
    patch.setattr(_recovery, "orders_of", noting)
    patch.setattr(ReplayPart, "__init__", lambda self, _: init(self, given[-1]))


def _letters_of_all_workers_have_the_same_ids(patch: Patch) -> None:
    init = StepFailures.__init__

    def as_first(
        self: StepFailures, step_id: str, site: FailureSite, *args: Any, **kw: Any
    ) -> None:
        site.worker = type(site.worker)(0)
        init(self, step_id, site, *args, **kw)

    patch.setattr(StepFailures, "__init__", as_first)


def _what_is_skipped_is_kept_as_well(patch: Patch) -> None:
    take = StepFailures.take
    kept: list[Any] = []

    def take_into(self: StepFailures, ex: Exception, record: Any, **how: Any) -> bool:
        if self._letters is not None:
            kept[:] = [self._letters]
        elif kept and is_pair_of_pair(record):
            kept[0].append(self._letter(ex, (record[0], record[1][1]), None))
        return take(self, ex, record, **how)

    patch.setattr(StepFailures, "take", take_into)


def _what_windows_hold_stays_as_it_was_changed(patch: Patch) -> None:
    for module in (_aligned_going_on, _windows_going_on):
        patch.setattr(module, "image_of", lambda state: state)


def _objects_stay_as_they_were_changed(patch: Patch) -> None:
    patch.setattr(_stateful_going_on, "image_of", lambda state: state)


def _a_value_is_left_out_of_each_of_its_windows_by_itself(patch: Patch) -> None:
    fold_one = AlignedGoingOn._fold_one

    def fold_each(self: AlignedGoingOn, panes: list[Pane], key: Any, value: Any) -> None:
        for pane in panes:
            fold_one(self, [pane], key, value)

    patch.setattr(AlignedGoingOn, "_fold_one", fold_each)


def _a_value_that_is_left_out_stretches_its_session(patch: Patch) -> None:
    patch.setattr(WindowsGoingOn, "_put_back", lambda *_: None)


def _a_key_is_as_young_as_the_value_that_it_went_on_without(patch: Patch) -> None:
    put_back = ExpiringState.put_back

    def keep_age(self: ExpiringState, key: Any, state: Any, *_: int | None) -> None:
        put_back(self, key, state, self.stamps.get(key))

    patch.setattr(ExpiringState, "put_back", keep_age)


def is_pair_of_pair(record: Any) -> bool:
    return isinstance(record, tuple) and isinstance(record[1], tuple)


FAILURE_MUTANTS = [
    Mutant(function.__name__.strip("_").replace("_", " "), function, check_failures, seed)
    for function, seed in (
        (_states_of_records_left_out_not_put_back, 13),
        (_letters_put_back_stay_in_the_store, 9),
        (_letters_put_back_by_every_worker, 6),
        (_letters_of_all_workers_have_the_same_ids, 7),
        (_what_is_skipped_is_kept_as_well, 0),
        (_what_windows_hold_stays_as_it_was_changed, 1),
        (_objects_stay_as_they_were_changed, 0),
        (_a_value_is_left_out_of_each_of_its_windows_by_itself, 1),
        (_a_value_that_is_left_out_stretches_its_session, 3),
        (_a_key_is_as_young_as_the_value_that_it_went_on_without, 0),
    )
]
