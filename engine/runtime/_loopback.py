"""The network as a worker sees it: what it sends to itself is there at once."""

from __future__ import annotations

from typing import Any, Protocol

from engine.runtime._ids import EdgeId, WorkerIndex
from engine.runtime._ports import Network


class Receiver(Protocol):
    """The worker: `engine.runtime._worker.Worker`."""

    index: WorkerIndex

    def receive(self, edge: EdgeId, sender: WorkerIndex, item: Any) -> None:
        """Take an item."""
        ...

    def credit(self, edge: EdgeId, receiver: WorkerIndex) -> None:
        """Take credit back."""
        ...


class Loopback:
    """Takes nothing to the network that is for the worker itself.

    Args:
        worker: Who sends.
        network: The way to others.
    """

    def __init__(self, worker: Receiver, network: Network) -> None:
        self._worker = worker
        self._network = network

    def send(self, edge: EdgeId, sender: WorkerIndex, receiver: WorkerIndex, item: Any) -> int:
        """As in `Network`."""
        if receiver == self._worker.index:
            self._worker.receive(edge, sender, item)
            return 0
        return self._network.send(edge, sender, receiver, item)

    def return_credit(self, edge: EdgeId, sender: WorkerIndex, receiver: WorkerIndex) -> None:
        """As in `Network`."""
        if sender == self._worker.index:
            self._worker.credit(edge, receiver)
        else:
            self._network.return_credit(edge, sender, receiver)
