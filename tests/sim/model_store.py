"""A store as the protocol sees it, in memory and simple enough to be believed.

It models what a crash takes away: what was appended and not prepared is gone, and what was prepared
and not linked is dropped by the next generation. What is kept is encoded, so that an object which
changes after its barrier can't hide. The real store runs the same kind of test in `tests/recovery`.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.runtime import Epoch, StepChanges


class FencedOffError(Exception):
    """A newer generation has begun."""


@dataclass
class Shard:
    """One worker's durable things."""

    log: dict[tuple[int, int], list[bytes]] = field(default_factory=dict)
    """Encoded changes by (generation, epoch), prepared ones only."""
    table: dict[tuple[Any, ...], bytes] = field(default_factory=dict)
    applied: int = 0


class World:
    """The manifests and shards of one job, over all its generations."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.chain: list[tuple[str, int, int]] = []
        self.shards = [Shard() for _ in range(workers)]
        self.generation = 0

    @property
    def epoch(self) -> int:
        return max((epoch for kind, _, epoch in self.chain if kind == "epoch"), default=0)

    def begin(self) -> list[ModelStore]:
        """Start a generation: claim it, then drop what wasn't committed, then open the shards."""
        self.generation += 1
        self.chain.append(("start", self.generation, self.epoch))
        for shard in self.shards:
            for at in [at for at in shard.log if at[1] > self.epoch]:
                del shard.log[at]
        return [ModelStore(self, shard, self.generation) for shard in self.shards]

    def linker(self) -> Callable[[int], None]:
        """What makes manifests durable for the generation that has just begun, and no other."""
        return functools.partial(self.link, self.generation)

    def link(self, generation: int, epoch: int) -> None:
        if self.generation != generation:
            raise FencedOffError
        assert epoch == self.epoch + 1, "one manifest per epoch"
        for shard in self.shards:
            assert any(e == epoch for _, e in shard.log), "linked before all were prepared"
        self.chain.append(("epoch", generation, epoch))


class ModelStore:
    """One worker's store in one generation: the table, and what was appended since, over it."""

    def __init__(self, world: World, shard: Shard, generation: int) -> None:
        self._world = world
        self._shard = shard
        self._generation = generation
        self._open: list[bytes] = []
        self.epoch = Epoch(world.epoch)
        self.session = ("model", generation)
        for epoch in range(shard.applied + 1, self.epoch + 1):
            self._apply(epoch)
        self._view = dict(shard.table)

    def _rows(self, kind: str, step_id: str) -> Iterable[tuple[tuple[Any, ...], Any]]:
        for row, value in list(self._view.items()):
            if row[:2] == (kind, step_id):
                yield row[2:], pickle.loads(value)

    def state(self, step_id: str) -> Any:
        return _StepState(self, step_id)

    def timers(self, step_id: str, until_s: float) -> Iterable[tuple[float, Any]]:
        for (key,), (_, due_s) in self._rows("state", step_id):
            if due_s is not None and due_s <= until_s:
                yield due_s, key

    def positions(self, step_id: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for shard in self._world.shards:
            for row, value in shard.table.items():
                if row[:2] == ("position", step_id):
                    found[row[2]] = pickle.loads(value)
        return found

    def kept_rows(self, step_id: str, shard: str) -> list[bytes]:
        return next((v for row, v in self._rows("kept", step_id) if row == (shard,)), [])

    def published(self, step_id: str, shard: str) -> int:
        del step_id, shard
        return 0

    def append(self, epoch: Epoch, changes: Sequence[StepChanges]) -> None:
        assert epoch == self._world.epoch + 1
        encoded = pickle.dumps(list(changes))
        self._open.append(encoded)
        for step in pickle.loads(encoded):
            put(self._view, step)

    def append_encoded(self, changes: list[bytes]) -> None:
        """Show changes that were never committed, which a mutant does."""
        for encoded in changes:
            for step in pickle.loads(encoded):
                put(self._view, step)

    def prepare(self, epoch: Epoch) -> None:
        self._fence()
        self._shard.log[self._generation, epoch] = self._open
        self._open = []

    def commit(self, epoch: Epoch) -> None:
        assert epoch <= self._world.epoch, "committed before it was linked"

    def apply_some(self, budget_s: float, *, eager: bool) -> bool:
        del budget_s, eager
        self._fence()
        if self._shard.applied < self._world.epoch:
            self._apply(self._shard.applied + 1)
        return self._shard.applied < self._world.epoch

    def _fence(self) -> None:
        if self._world.generation != self._generation:
            raise FencedOffError

    def _apply(self, epoch: int) -> None:
        at = next(at for at in self._shard.log if at[1] == epoch)
        for encoded in self._shard.log.pop(at):
            for step in pickle.loads(encoded):
                put(self._shard.table, step)
        self._shard.applied = epoch


def put(table: dict[tuple[Any, ...], bytes], changes: StepChanges) -> None:
    """Bring changes into a table."""
    step_id, state = changes.step_id, changes.state
    if state is not None:
        dues = state.due_s or [None] * len(state.keys)
        for key, stored, due_s in zip(state.keys, state.stored, dues, strict=True):
            table["state", step_id, key] = pickle.dumps((stored, due_s))
        for key in state.gone:
            table.pop(("state", step_id, key), None)
    for name, position in changes.positions.items():
        table["position", step_id, name] = pickle.dumps(position)
    for shard, rows in changes.kept_rows.items():
        table["kept", step_id, shard] = pickle.dumps(rows)


@dataclass
class _StepState:
    store: ModelStore
    step_id: str

    def load(self, key: Any) -> Any:
        value = self.store._view.get(("state", self.step_id, key))
        return None if value is None else pickle.loads(value)[0]

    def is_empty(self) -> bool:
        return not self.keys()

    def keys(self) -> list[Any]:
        return [row[0] for row, _ in self.store._rows("state", self.step_id)]
