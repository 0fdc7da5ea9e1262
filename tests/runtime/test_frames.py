"""Frames between workers: what goes in comes out, and whatever isn't right is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import LinkError
from engine.runtime import _frames
from engine.runtime._frames import HEADER, FrameReader, FrameWriter, Kind, TooLongError
from engine.runtime._ids import EdgeId, Epoch
from engine.runtime._messages import END, HOLD_US, LEFT_OUT_US, Barrier, CaughtUp, Quiet, Watermark

ITEMS: list[Any] = [
    [("a", 1), ("b", None)],
    Barrier(Epoch(2**40)),
    END,
    [(1, {"x": (1, 2)})],
    Watermark(-5),
    Watermark(HOLD_US),
    Watermark(LEFT_OUT_US),
    CaughtUp(True),
    CaughtUp(False),
    Quiet((0, 3, 2**40), (1, 0, 7)),
]


def written(generation: int = 7) -> bytes:
    """Some frames of all kinds."""
    writer = FrameWriter(generation)
    frames = [writer.item(EdgeId(n), item) for n, item in enumerate(ITEMS)]
    frames += [writer.credit(EdgeId(3), 5), writer.bye()]
    return b"".join(part for frame in frames for part in frame)


def read(data: bytes, cuts: list[int] | None = None) -> list[Any]:
    """Frames out of bytes that come in pieces."""
    reader, at, found = FrameReader(7), 0, []
    for cut in [*sorted(cuts or ()), len(data)]:
        found += [tuple(frame) for frame in reader.feed(data[at:cut])]
        at = cut
    return found


WANTED = [
    (0, Kind.BATCH, ITEMS[0]),
    (1, Kind.BARRIER, ITEMS[1]),
    (2, Kind.END, END),
    (3, Kind.BATCH, ITEMS[3]),
    *((n, Kind.WATERMARK, ITEMS[n]) for n in (4, 5, 6)),
    *((n, Kind.CAUGHT_UP, ITEMS[n]) for n in (7, 8)),
    (9, Kind.QUIET, ITEMS[9]),
    (3, Kind.CREDIT, 5),
    (0, Kind.BYE, 0),
]


@given(st.lists(st.integers(0, len(written()))))
def test_frames_come_out_as_they_went_in(cuts: list[int]):
    """In order, in whatever pieces their bytes come."""
    assert read(written(), cuts) == WANTED


@given(st.integers(0, len(written()) - 1), st.integers(1, 255))
def test_a_damaged_byte_is_noticed(at: int, flip: int):
    """Nothing that comes out is other than what went in; mostly it is an error at once."""
    data = bytearray(written())
    data[at] ^= flip
    found: list[Any] = []
    reader = FrameReader(7)
    try:
        found.extend(tuple(frame) for frame in reader.feed(bytes(data)))
    except LinkError:
        pass
    else:
        # A length that grew: the rest is waited for, and never comes.
        assert len(found) < len(WANTED)
    assert found == WANTED[: len(found)]


def test_frames_of_another_generation_are_refused():
    """A worker of a run that is over may still be there."""
    with pytest.raises(LinkError, match="generation 6 came, and this is 7"):
        list(FrameReader(7).feed(written(6)))


def test_a_missing_frame_is_noticed():
    """As is one that comes twice."""
    first = len(b"".join(FrameWriter(7).item(EdgeId(0), ITEMS[0])))
    with pytest.raises(LinkError, match="frame 1 came in place of 0"):
        read(written()[first:])
    with pytest.raises(LinkError, match="frame 0 came in place of 1"):
        read(written()[:first] + written())


def test_a_frame_that_is_too_long_is_refused_by_its_header():
    """Before any of it is kept."""
    head = HEADER.pack(7, 0, Kind.BATCH, 0, 1 << 31, 0)
    with pytest.raises(LinkError, match=r"says that it has 2,147,483,648 bytes"):
        read(head)


def test_a_batch_that_is_too_long_is_not_sent(monkeypatch: pytest.MonkeyPatch):
    """The error says what to do."""
    monkeypatch.setattr(_frames, "BODY_MAX", 100)
    with pytest.raises(TooLongError, match="1 record.* takes? .* make records smaller"):
        FrameWriter(7).item(EdgeId(0), ["x" * 200])


def test_a_kind_that_nobody_knows_is_refused():
    """Its checksum being right."""
    writer = FrameWriter(7)
    frame = writer._frame(EdgeId(0), 9, b"")  # type: ignore[arg-type]
    with pytest.raises(LinkError, match="there is no kind 9"):
        read(b"".join(frame))
