"""What a manifest says, and how it is written: the one file that makes an epoch durable.

Pure. `_chain` puts manifests on the disk, one after the other; each says all there is to know, so
that older ones can be deleted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias, cast
from zlib import crc32

from engine.recovery._ids import Epoch, Generation, StepNumber

FORMAT: Final = 1
"""The format of a store's files; one with a higher number is left alone."""

NO_EPOCH: Final = Epoch(0)
"""The last durable epoch of a store that has none."""

SINK_KIND: Final = "output"
"""What `StepEntry.kind` is of every sink."""

_TEXTS: Final = ("store_id", "flow_id", "fingerprint", "took_over")

ManifestKind: TypeAlias = Literal["generation", "epoch"]
Published: TypeAlias = Mapping[str, Mapping[str, int]]
"""Per sink step and shard, the last epoch that is known to be out at the target."""


@dataclass(frozen=True, slots=True)
class StepEntry:
    """A step that has rows in the store."""

    number: StepNumber
    """What stands for it in rows and log records; never given to another step."""
    kind: str
    """The operator that the user chose, such as ``"stateful_map"``, ``"input"`` or ``"output"``."""
    state_version: int = 1
    """The newest version that states of it were saved in."""
    since: Epoch = NO_EPOCH
    """The last durable epoch when the step was new: it has nothing saved before the next one."""
    stateless: bool = False
    """It is a source or sink without named partitions: all it may have is a sink's kept rows."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One link of the chain: either a new generation begins, or an epoch is durable."""

    seq: int
    """The number of the link, from 1."""
    kind: ManifestKind
    generation: Generation
    epoch: Epoch
    """The last durable epoch."""
    store_id: str
    flow_id: str
    fingerprint: str
    """Of the flow's graph."""
    workers: int
    shards: int
    """The number of the folder that holds the workers' stores: the generation that made it."""
    shards_epoch: Epoch
    """The epoch that those were made with."""
    steps: Mapping[str, StepEntry] = field(default_factory=dict[str, StepEntry])
    """By step id."""
    next_step: int = 1
    """The number for the next new step."""
    dropped: tuple[int, ...] = ()
    """Numbers of steps that were dropped, whose rows are to be deleted."""
    published: Published = field(default_factory=dict[str, Mapping[str, int]])
    time_s: float = 0.0
    """When it was written, in seconds since 1970 UTC."""
    took_over: str = ""
    """The id of the store whose sinks this one was restored to go on with; empty for none."""

    @property
    def job_id(self) -> str:
        """What sinks know the job by, so that their markers count on in a store that took over."""
        return self.took_over or self.store_id

    def after_epoch(
        self,
        epoch: Epoch,
        published: Published,
        time_s: float,
        steps: Mapping[str, StepEntry] | None = None,
    ) -> Manifest:
        """The link that makes an epoch durable; `steps` are the same as before if None."""
        return replace(
            self,
            seq=self.seq + 1,
            kind="epoch",
            epoch=epoch,
            published=published,
            time_s=time_s,
            steps=self.steps if steps is None else steps,
        )

    def after_start(self, time_s: float, **changes: Any) -> Manifest:
        """The link that begins the next generation; `changes` are fields that differ."""
        return replace(
            self,
            seq=self.seq + 1,
            kind="generation",
            generation=Generation(self.generation + 1),
            time_s=time_s,
            **changes,
        )


class ManifestTextError(ValueError):
    """A text is no manifest; says why."""


class NewerFormatError(ValueError):
    """A text is whole, but in a format of a newer engine; says which."""


def encode_manifest(manifest: Manifest) -> bytes:
    """A manifest as text: JSON and a line with its checksum."""
    return seal({"format": FORMAT, **asdict(manifest)})


def decode_manifest(data: bytes) -> Manifest:
    """The manifest that `encode_manifest` made a text of.

    Raises:
        ManifestTextError: It is damaged.
        NewerFormatError: A newer engine wrote it.
    """
    body = unseal(data)
    try:
        return _from_body(body)
    except (KeyError, TypeError, ValueError, AttributeError) as ex:
        msg = f"a field is missing or makes no sense: {ex}"
        raise ManifestTextError(msg) from ex


def seal(body: dict[str, Any]) -> bytes:
    """JSON followed by a line with its checksum."""
    text = json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"
    return text + b"crc32 %08x\n" % crc32(text)


def unseal(data: bytes) -> dict[str, Any]:
    """What `seal` made a text of.

    Raises:
        ManifestTextError: It is damaged.
        NewerFormatError: A newer engine wrote it.
    """
    text, last = data[:-15], data[-15:]
    if last != b"crc32 %08x\n" % crc32(text):
        msg = "it does not match its checksum, or is cut off"
        raise ManifestTextError(msg)
    body = cast("dict[str, Any]", json.loads(text))
    if body["format"] > FORMAT:
        msg = f"written in format {body['format']}; this engine knows formats up to {FORMAT}"
        raise NewerFormatError(msg)
    return body


def _from_body(body: dict[str, Any]) -> Manifest:
    del body["format"]
    steps = {
        step_id: StepEntry(
            StepNumber(_whole(entry["number"])),
            str(entry["kind"]),
            _whole(entry["state_version"]),
            Epoch(_whole(entry["since"])),
            bool(entry["stateless"]),
        )
        for step_id, entry in body.pop("steps").items()
    }
    kind = body.pop("kind")
    if kind not in {"generation", "epoch"}:
        raise ValueError(kind)
    numbers = {
        name: _whole(body.pop(name))
        for name in ("seq", "generation", "epoch", "workers", "shards", "shards_epoch", "next_step")
    }
    published = {
        step_id: {shard: _whole(epoch) for shard, epoch in shards.items()}
        for step_id, shards in body.pop("published").items()
    }
    dropped = tuple(_whole(number) for number in body.pop("dropped"))
    texts = {name: str(body.pop(name)) for name in _TEXTS}
    time_s = float(body.pop("time_s"))
    if body:
        msg = f"unknown fields {sorted(body)}"
        raise ValueError(msg)
    rest: dict[str, Any] = {**numbers, **texts}
    return Manifest(
        kind=kind, steps=steps, published=published, dropped=dropped, time_s=time_s, **rest
    )


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        msg = f"{value!r} is not a whole number"
        raise ValueError(msg)
    return value
