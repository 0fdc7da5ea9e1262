"""Looks at the chain of manifests from outside, and sees that it grows as it should."""

from __future__ import annotations

from pathlib import Path

from engine.recovery._fakes import FakeDisk
from engine.recovery._layout import StorePaths
from engine.recovery._manifest import Manifest, decode_manifest


class ChainWatch:
    """Remembers every link that no crash can take away any more.

    Args:
        disk: A view of the disk that nobody else has.
        root: The store's folder.
    """

    def __init__(self, disk: FakeDisk, root: Path) -> None:
        self.newest: Manifest | None = None
        """The newest link that is safe."""
        self._disk = disk
        self._folder = StorePaths(root).manifests
        self._changed = False
        self._seen: dict[int, Manifest] = {}

    def before_op(self, what: str, path: Path) -> None:
        """Take note of an operation that is about to be done."""
        if self._changed:
            self.look()
        self._changed = path == self._folder or path.parent == self._folder

    def durable_epoch(self) -> int:
        """The newest epoch that no crash can take away any more."""
        self.look()
        return self.newest.epoch if self.newest else 0

    def look(self) -> None:
        """See what is new, and that it goes on from what was there."""
        if not self._disk.exists(self._folder):
            return
        last = self.newest.seq if self.newest else 0
        safe = self._disk.synced(self._folder)
        for name in self._disk.names(self._folder):
            if name.endswith(".json") and (seq := int(name[:-5])) > last:
                self._seen[seq] = decode_manifest(self._disk.read(self._folder / name))
                if name in safe:
                    self._add_through(seq)

    def _add_through(self, seq: int) -> None:
        """A link is safe, and so is what it says of those before, though a crash may take them."""
        first = self.newest.seq + 1 if self.newest else 1
        for each in range(first, seq + 1):
            link = self._seen.get(each)
            assert link is not None, "the chain has a gap"
            _check_follows(self.newest, link)
            self.newest = link


def _check_follows(before: Manifest | None, link: Manifest) -> None:
    if before is None:
        assert (link.seq, link.kind, link.generation, link.epoch) == (1, "generation", 1, 0)
        return
    if link.kind == "epoch":
        assert link.epoch == before.epoch + 1, "an epoch has two manifests, or none"
        assert link.generation == before.generation, "a dead generation has committed"
        assert link.workers == before.workers
    else:
        assert link.generation == before.generation + 1
        assert link.epoch == before.epoch, "a new generation begins with another epoch"
