"""Asks sources and sinks for their partitions: each of them on one thread at a time.

A thread that looks for new partitions (`engine.runtime._discovery`) may still be in `list_parts`
when its run has ended and the next one begins: that may block, and nobody waits for such a thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from typing import Any

from engine.connectors import UnavailableError
from engine.errors import ConnectorError
from engine.operators._shown import shown
from engine.runtime._failure import blaming
from engine.runtime._outage import Asking

_changed = threading.Condition()
_asked: dict[int, Any] = {}
"""What is being asked, by its identity, which it keeps while it is here."""


def listed(step_id: str, connector: Any, asking: Asking | None = None) -> list[str]:
    """The partitions that a source or sink names, each once, in order.

    Args:
        step_id: Its step.
        connector: The source or sink.
        asking: Asks again while it can't be reached, or is being asked by somebody else; without
            it the one is an error, and the other is waited for.

    Raises:
        EngineRuntimeError: It can't name them.
        AbortExecution: As of `Asking.ask`.
    """

    def ask() -> Any:
        with _alone_with(connector, wait=asking is None):
            names = connector.list_parts()
            return names if isinstance(names, str) else list(names)

    with blaming(step_id, "listing its partitions"):
        what = "the list of its partitions"
        names: Any = ask() if asking is None else asking.ask(step_id, what, ask)
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            msg = f"`list_parts` must return a list of `str`; got {shown(names)}"
            raise ConnectorError(msg)
        return sorted(set(names))


@contextlib.contextmanager
def _alone_with(connector: Any, *, wait: bool) -> Generator[None]:
    with _changed:
        if wait:
            _changed.wait_for(lambda: id(connector) not in _asked)
        elif id(connector) in _asked:
            msg = "the run before is still asking for it"
            raise UnavailableError(msg)
        _asked[id(connector)] = connector
    try:
        yield
    finally:
        with _changed:
            del _asked[id(connector)]
            _changed.notify_all()
