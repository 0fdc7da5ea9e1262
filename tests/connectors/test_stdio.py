"""`StdOutSink`: one line per item, one write per batch."""

from __future__ import annotations

import sys
from io import StringIO

import pytest

from engine.connectors.stdio import StdOutSink


class _Terminal(StringIO):
    """Notes each call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def write(self, text: str) -> int:
        self.calls.append(text)
        return len(text)

    def flush(self) -> None:
        self.calls.append("<flush>")


def test_writes_a_batch_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is one write and a flush, so that it is seen at once; an empty one is nothing."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    part = StdOutSink().build("flow.out", 0, 1)
    part.write_batch(["a", 1, None, {"k": "é"}])
    part.write_batch([])
    assert terminal.calls == ["a\n1\nNone\n{'k': 'é'}\n", "<flush>"]


def test_promises_at_least_once() -> None:
    """What was printed can't be taken back."""
    assert StdOutSink().delivery == "at-least-once"
