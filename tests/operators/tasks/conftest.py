"""A test of tasks that hangs fails, and says where it hung."""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Iterator

import pytest

HANG_S = 60


@pytest.fixture(autouse=True)
def guard() -> Iterator[None]:
    """Fail a test that takes too long; end the process if even that doesn't free it."""

    def give_up(*_: object) -> None:
        faulthandler.dump_traceback(all_threads=True)
        pytest.fail(f"it hangs: no end after {HANG_S} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(HANG_S)
    faulthandler.dump_traceback_later(2 * HANG_S, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
