"""Watches over a run: a monitor, and the endpoint that tells what it knows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from engine.runtime._address import Address
from engine.runtime._ports import Clock

if TYPE_CHECKING:
    from engine.runtime._monitor import Monitor


@contextlib.contextmanager
def monitoring(
    address: Address | None, clock: Clock, tell: Callable[[str], None]
) -> Generator[Monitor | None]:
    """A monitor whose metrics and health are served at an address for as long as this lasts.

    Args:
        address: Where; None for no monitor.
        clock: Tells the time.
        tell: Takes a line that says where the metrics are.

    Raises:
        AddressError: The address can't be listened at.
    """
    if address is None:
        yield None
        return
    # Loads what most runs don't need.
    from engine.runtime._endpoint import serve_metrics  # noqa: PLC0415
    from engine.runtime._monitor import Monitor  # noqa: PLC0415

    monitor = Monitor(clock.monotonic_s)
    endpoint = serve_metrics(address, monitor)
    try:
        tell(f"metrics at http://{endpoint.address}/metrics")
        yield monitor
    finally:
        endpoint.close()
