"""The chain of manifests: numbered files, of which nobody can write one twice.

Giving a file the next number with `link` **is** the commit. Two processes that both believe they
run the job try the same number, and the second finds it taken: it is fenced. Called by whoever
coordinates, never by workers.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from engine.errors import CorruptStoreError, FencedError, StoreFormatError
from engine.recovery._disk import Disk, write_synced, writing
from engine.recovery._manifest import (
    Manifest,
    ManifestTextError,
    NewerFormatError,
    decode_manifest,
    encode_manifest,
)

_NAME = re.compile(r"(\d{12})\.json")


class ManifestChain:
    """The manifests in a folder.

    Args:
        disk: Where.
        folder: The folder, which is there.
        token: Differs for each process, so that two never write the same temporary file.
    """

    def __init__(self, disk: Disk, folder: Path, token: str) -> None:
        self._disk = disk
        self._folder = folder
        self._temporary = folder / f"{token}.tmp"

    def numbers(self) -> list[int]:
        """The numbers of the links that are there, in order."""
        matches = map(_NAME.fullmatch, self._disk.names(self._folder))
        return sorted(int(match[1]) for match in matches if match)

    def newest(self) -> Manifest | None:
        """The last link; None before the first.

        Raises:
            CorruptStoreError: It is damaged.
            StoreFormatError: A newer engine wrote it.
        """
        numbers = self.numbers()
        return self.read(numbers[-1]) if numbers else None

    def read(self, seq: int) -> Manifest:
        """One link. Errors as `newest`."""
        path = self.path(seq)
        try:
            manifest = decode_manifest(self._disk.read(path))
        except ManifestTextError as ex:
            raise CorruptStoreError(path, f"the manifest is damaged: {ex}") from ex
        except NewerFormatError as ex:
            msg = f"{path}: {ex}"
            raise StoreFormatError(msg) from ex
        if manifest.seq != seq:
            raise CorruptStoreError(path, f"it is manifest {manifest.seq} under another number")
        return manifest

    def path(self, seq: int) -> Path:
        """Where a link is."""
        return self._folder / f"{seq:012d}.json"

    def link(self, manifest: Manifest) -> None:
        """Add the next link; it is durable when this returns.

        Raises:
            FencedError: Another process has added one. Nothing of this one may be used.
            StoreWriteError: The disk refused. Whether the link is durable is not known then.
        """
        disk, path = self._disk, self.path(manifest.seq)
        with writing(self._folder, f"write manifest {manifest.seq}"):
            write_synced(disk, self._temporary, encode_manifest(manifest))
            try:
                disk.link(self._temporary, path)
            except FileExistsError:
                raise self._fenced(manifest) from None
            finally:
                disk.unlink(self._temporary)
            disk.sync_folder(self._folder)
            # The number was free because that link had been made by others and collected since.
            if self.numbers()[-1] > manifest.seq:
                # Unless they have collected it meanwhile.
                with suppress(FileNotFoundError):
                    disk.unlink(path)
                raise self._fenced(manifest)

    def check_in_force(self, manifest: Manifest) -> None:
        """See that a link is still the newest one.

        Raises:
            FencedError: Another process has added one.
        """
        numbers = self.numbers()
        if not numbers or numbers[-1] != manifest.seq:
            raise self._fenced(manifest)

    def collect(self, before: int) -> None:
        """Delete the links with lower numbers, and what dead processes left behind."""
        for seq in self.numbers():
            if seq < before:
                with writing(self.path(seq), "delete an old manifest"):
                    self._disk.unlink(self.path(seq))

    def remove_leftovers(self) -> None:
        """Delete temporary files of dead processes. Only for the process that has the lock."""
        for name in self._disk.names(self._folder):
            if name.endswith(".tmp"):
                self._disk.unlink(self._folder / name)

    def _fenced(self, manifest: Manifest) -> FencedError:
        return FencedError(
            f"{self._folder}: manifest {manifest.seq} is not for generation {manifest.generation} "
            "to write: a newer generation of this job has taken over, so this one must stop"
        )
