"""What goes over a connection between two workers, as bytes: frames with a header and a checksum.

    generation  edge  kind  seq  length  crc32 of all else | body
        4        2     1     4     4           4          |

Pure. Bodies of batches are pickles: only a peer that has proved itself is read from (`_mesh`).
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final, NamedTuple
from zlib import crc32

from engine.errors import ConnectorError, LinkError
from engine.runtime._ids import EdgeId, Epoch
from engine.runtime._messages import END, Barrier, CaughtUp, End, Quiet, Watermark

HEADER: Final = struct.Struct(">IHBIII")
_CHECKED: Final = struct.Struct(">IHBII")
BODY_MAX: Final = 64 << 20
"""No frame is longer; a batch that would be is a mistake of somebody's."""


class Kind(IntEnum):
    """What a frame carries."""

    BATCH = 1
    BARRIER = 2
    END = 3
    CREDIT = 4
    BYE = 5
    """Nothing comes after it: the sender leaves as it should."""
    WATERMARK = 6
    CAUGHT_UP = 7
    QUIET = 8


class Frame(NamedTuple):
    """One that has come."""

    edge: EdgeId
    kind: Kind
    item: Any
    """The batch, barrier, watermark and so on; of `CREDIT` how much it is."""


class TooLongError(ConnectorError):
    """A batch makes a longer frame than there may be."""


class FrameWriter:
    """Makes the frames of one direction of a connection.

    Args:
        generation: Of the run.
    """

    def __init__(self, generation: int) -> None:
        self._generation = generation
        self._seq = 0

    def item(self, edge: EdgeId, item: Any) -> list[bytes]:
        """The frame of what a worker sends to another one.

        Raises:
            TooLongError: It is too long. Nothing has happened.
            Exception: A record can't be pickled.
        """
        kind = item.__class__
        if kind is Barrier:
            return self._frame(edge, Kind.BARRIER, item.epoch.to_bytes(8, "big"))
        if kind is End:
            return self._frame(edge, Kind.END, b"")
        if kind is Watermark:
            return self._frame(edge, Kind.WATERMARK, item.at_us.to_bytes(8, "big", signed=True))
        if kind is CaughtUp:
            return self._frame(edge, Kind.CAUGHT_UP, bytes([item.yes]))
        if kind is Quiet:
            counts = (*item.sent, *item.received)
            return self._frame(edge, Kind.QUIET, struct.pack(f">{len(counts)}Q", *counts))
        body = pickle.dumps(item, 5)
        if len(body) > BODY_MAX:
            msg = (
                f"{len(item)} record(s) take {len(body):,} bytes, and {BODY_MAX:,} is the most "
                "that workers send each other at once; make records smaller"
            )
            raise TooLongError(msg)
        return self._frame(edge, Kind.BATCH, body)

    def credit(self, edge: EdgeId, batches: int) -> list[bytes]:
        """The frame that gives credit back."""
        return self._frame(edge, Kind.CREDIT, batches.to_bytes(4, "big"))

    def bye(self) -> list[bytes]:
        """The last frame."""
        return self._frame(EdgeId(0), Kind.BYE, b"")

    def _frame(self, edge: EdgeId, kind: Kind, body: bytes) -> list[bytes]:
        head = self._generation, edge, kind, self._seq, len(body)
        self._seq = (self._seq + 1) & 0xFFFFFFFF
        checksum = crc32(body, crc32(_CHECKED.pack(*head)))
        return [HEADER.pack(*head, checksum), body]


class FrameReader:
    """Takes the frames of one direction of a connection apart, as their bytes come.

    Args:
        generation: Of the run; frames of another are refused.
    """

    def __init__(self, generation: int) -> None:
        self._generation = generation
        self._seq = 0
        self._parts: list[bytes] = []
        self._lacks = HEADER.size
        """How many bytes must come before there is something to look at."""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now.

        Raises:
            LinkError: What came is no frame of this run, is damaged, or one before it is missing.
        """
        self._parts.append(data)
        self._lacks -= len(data)
        if self._lacks > 0:
            return
        rest = b"".join(self._parts) if len(self._parts) > 1 else data
        view, at, needed = memoryview(rest), 0, HEADER.size
        while len(rest) - at >= HEADER.size:
            *head, checksum = HEADER.unpack_from(rest, at)
            generation, edge, kind, seq, length = head
            self._check(generation, seq, length)
            end = at + HEADER.size + length
            if end > len(rest):
                needed = HEADER.size + length
                break
            body = view[at + HEADER.size : end]
            if crc32(body, crc32(_CHECKED.pack(*head))) != checksum:
                msg = f"frame {seq} is damaged: its checksum is wrong"
                raise LinkError(msg)
            self._seq = (self._seq + 1) & 0xFFFFFFFF
            at = end
            yield _frame_of(EdgeId(edge), kind, body)
        left = rest[at:]
        self._parts = [left] if left else []
        self._lacks = needed - len(left)

    def _check(self, generation: int, seq: int, length: int) -> None:
        if generation != self._generation:
            msg = f"a frame of generation {generation} came, and this is {self._generation}"
            raise LinkError(msg)
        if seq != self._seq:
            msg = f"frame {seq} came in place of {self._seq}"
            raise LinkError(msg)
        if length > BODY_MAX:
            msg = f"frame {seq} says that it has {length:,} bytes; {BODY_MAX:,} is the most"
            raise LinkError(msg)


def _frame_of(edge: EdgeId, number: int, body: memoryview) -> Frame:
    try:
        kind = Kind(number)
    except ValueError:
        msg = f"there is no kind {number} of frames"
        raise LinkError(msg) from None
    item: Any
    if kind is Kind.BATCH:
        item = pickle.loads(body)  # noqa: S301 - the peer has proved itself
    elif kind is Kind.BARRIER:
        item = Barrier(Epoch(int.from_bytes(body, "big")))
    elif kind is Kind.END:
        item = END
    elif kind is Kind.WATERMARK:
        item = Watermark(int.from_bytes(body, "big", signed=True))
    elif kind is Kind.CAUGHT_UP:
        item = CaughtUp(bool(body[0]))
    elif kind is Kind.QUIET:
        counts = struct.unpack(f">{len(body) // 8}Q", body)
        item = Quiet(counts[: len(counts) // 2], counts[len(counts) // 2 :])
    else:
        item = int.from_bytes(body, "big")
    return Frame(edge, kind, item)
