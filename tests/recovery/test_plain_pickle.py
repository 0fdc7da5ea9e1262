"""Pickles of standard types are read without pickle being allowed, and no others."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from engine.recovery._codec import Codec, PickleRefusedError
from engine.recovery._plain_pickle import NotPlainError, load_plain

PLAIN: list[Any] = [
    *(None, True, 0, -(2**70), 1.5, "a\n\udcff", b"a\nb", bytearray(b"x"), 1 + 2j, range(3)),
    *([1, [2]], (1, (2,)), {"a": {1: 2}}, {1, 2}, frozenset({3}), "x" * 100_000),
    *(
        datetime(2020, 1, 1, tzinfo=UTC),
        date(2020, 1, 1),
        time(1, tzinfo=timezone(timedelta(1 / 3))),
    ),
    *(timedelta(1), Decimal("1.50"), UUID(int=7)),
]


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_standard_types_come_back(protocol: int) -> None:
    """Whichever way they were pickled."""
    if protocol == 0:
        # Its opcodes for bytes name a function of another module.
        values = [value for value in PLAIN if not isinstance(value, bytes | bytearray)]
        values = [v for v in values if type(v) in {int, str, list, tuple, dict, float, bool}]
    else:
        values = PLAIN if protocol > 2 else [v for v in PLAIN if type(v) in {int, str, list, tuple}]
    assert load_plain(pickle.dumps(values, protocol)) == values


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch evil",)


class Sly:
    def __reduce__(self) -> Any:
        return getattr, (UUID, "__init__")


@pytest.mark.parametrize("value", [Evil(), Sly(), Path("x"), OrderedDict(), partial(print), print])
def test_anything_else_is_refused(value: Any, tmp_path: Path, monkeypatch) -> None:
    """Before any of it runs."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotPlainError, match="it needs `"):
        load_plain(pickle.dumps([1, value], 5))
    assert list(tmp_path.iterdir()) == []


def test_columns_of_plain_states_need_no_pickle() -> None:
    """Though the log has them pickled; rows that are pickled have a reason to be."""
    strict = Codec(allow_pickle=False)
    plain = [value for value in PLAIN if not isinstance(value, bytearray)]
    assert strict.decode_column(Codec().encode_column(plain)) == plain
    rows = strict.column_rows(Codec().encode_column(plain))
    assert [strict.decode_row(row) for row in rows] == plain
    for value, why in (
        (Path("x"), "pathlib.PosixPath"),
        (bytearray(), "bytearray"),
        (UUID, "type"),
    ):
        with pytest.raises(PickleRefusedError, match=why):
            strict.decode_column(Codec().encode_column([1, value]))


@pytest.mark.parametrize("cut", [0, 1, 10, -1])
def test_damaged_pickles_raise(cut: int) -> None:
    """And don't hang."""
    with pytest.raises((EOFError, pickle.UnpicklingError)):
        load_plain(pickle.dumps(PLAIN, 5)[:cut])
