"""Connections between workers of several processes: one for each pair of workers.

A worker's own thread reads and writes its connections between its rounds, and waits at them when it
has nothing else to do: a thread that reads would fight for the interpreter with the one that works.
A peer that goes without a word is an error here, at once; nothing is sent again.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import select
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, NoReturn

from engine.errors import LinkError, UserCodeError
from engine.runtime._failure import name_of
from engine.runtime._frames import FrameReader, FrameWriter, Kind, TooLongError
from engine.runtime._ids import EdgeId, WorkerIndex
from engine.runtime._ports import Stream
from engine.runtime._worker import Worker

_READ_BYTES = 1 << 18
_BUFFERS_MAX = 64
_PRECISE_S = 0.002
"""Shorter waits than this need a call that knows less than milliseconds."""
_SELECT_FDS_MAX = 1024
_LONGEST_S = 3600.0
_GOODBYE_S = 1.0
"""How long all links of a worker together may take to get out what is under way."""


class _Link:
    """The connection to one peer."""

    def __init__(self, peer: WorkerIndex, sock: Stream, generation: int) -> None:
        self.peer = peer
        self.sock = sock
        self.writer = FrameWriter(generation)
        self.reader = FrameReader(generation)
        self.credits: Counter[EdgeId] = Counter()
        self.said_bye = False
        self.sent_bytes = 0
        self.received_bytes = 0
        self._unsent: deque[bytes | memoryview] = deque()
        sock.settimeout(0.0)

    @property
    def congested(self) -> bool:
        """Whether something waits for the peer to read."""
        return bool(self._unsent)

    def put(self, frame: list[bytes]) -> None:
        """Add a frame to what is to be sent."""
        self._unsent += frame

    def flush(self) -> None:
        """Send as much as the connection takes.

        Raises:
            LinkError: The peer is gone.
        """
        if self.credits:
            for edge, batches in self.credits.items():
                self.put(self.writer.credit(edge, batches))
            self.credits.clear()
        unsent = self._unsent
        while unsent:
            some = [unsent[i] for i in range(min(len(unsent), _BUFFERS_MAX))]
            try:
                sent = self.sock.sendmsg(some)
            except BlockingIOError:
                return
            except OSError as ex:
                raise self._lost(ex) from ex
            self.sent_bytes += sent
            while unsent and sent >= len(unsent[0]):
                sent -= len(unsent.popleft())
            if sent:
                unsent[0] = memoryview(unsent[0])[sent:]

    def read(self, worker: Worker) -> None:
        """Take what has come to the worker.

        Raises:
            LinkError: The peer is gone, or what it sent makes no sense.
        """
        try:
            data = self.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as ex:
            raise self._lost(ex) from ex
        if not data:
            if self.said_bye:
                return
            raise self._lost(None)
        self.received_bytes += len(data)
        try:
            for frame in self.reader.feed(data):
                if frame.kind is Kind.CREDIT:
                    worker.credit(frame.edge, self.peer, frame.item)
                elif frame.kind is Kind.BYE:
                    self.said_bye = True
                else:
                    worker.receive(frame.edge, self.peer, frame.item)
        except LinkError as ex:
            msg = f"connection to worker {self.peer}: {ex}"
            raise LinkError(msg) from ex

    def _lost(self, cause: OSError | None) -> LinkError:
        why = "its process has closed it" if cause is None else cause
        return LinkError(f"connection to worker {self.peer} is lost: {why}")

    def close(self, deadline_s: float) -> None:
        """Say goodbye, if the connection takes it in time, and close."""
        with contextlib.suppress(LinkError, OSError):
            self.put(self.writer.bye())
            self.sock.settimeout(max(0.0, deadline_s - time.monotonic()))
            self.flush()
        self.sock.close()


def _refuse(batch: list[Any], cause: Exception) -> NoReturn:
    """Say which record of a batch can't be sent; `engine.runtime._failure` reads it from here."""
    for record in batch:
        try:
            pickle.dumps(record, 5)
        except Exception:  # noqa: BLE001 - as above
            break
    msg = f"a record can't be sent to another process: {name_of(cause)}"
    hint = "what goes to a step by key, or is redistributed, must be picklable"
    raise UserCodeError(msg, hint=hint) from cause


class MeshSeat:
    """A worker's seat among workers of other processes.

    Args:
        links: A connected stream socket for each of them. Both ends have proved themselves.
        generation: Of the run; frames of others are refused.
    """

    def __init__(self, links: Mapping[WorkerIndex, Stream], generation: int) -> None:
        self._links = {peer: _Link(peer, sock, generation) for peer, sock in links.items()}
        self._by_fd = {link.sock.fileno(): link for link in self._links.values()}
        self._woken_fd, self._wake_fd = os.pipe()
        self._closing = threading.Lock()
        os.set_blocking(self._woken_fd, False)
        os.set_blocking(self._wake_fd, False)
        self._ready: list[int] = []
        self._fds = [*self._by_fd, self._woken_fd]
        self._selectable = max(self._fds) < _SELECT_FDS_MAX

    def send(self, edge: EdgeId, sender: WorkerIndex, receiver: WorkerIndex, item: Any) -> int:
        """As in `Network`."""
        del sender
        link = self._links[receiver]
        try:
            frame = link.writer.item(edge, item)
        except TooLongError:
            raise
        except Exception as ex:  # noqa: BLE001 - what pickling a user's object may raise
            _refuse(item, ex)
        link.put(frame)
        return sum(map(len, frame))

    def return_credit(self, edge: EdgeId, sender: WorkerIndex, receiver: WorkerIndex) -> None:
        """As in `Network`."""
        del receiver
        self._links[sender].credits[edge] += 1

    def receive(self, worker: Worker) -> None:
        """As in `Seat`. Errors as `wait`."""
        for fd in self._ready:
            link = self._by_fd.get(fd)
            if link is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken_fd, 4096)
            elif not link.said_bye:
                link.read(worker)
        self._ready = []

    def wait(self, seconds: float) -> None:
        """As in `Seat`.

        Raises:
            LinkError: A peer is gone.
        """
        writing: list[int] = []
        for link in self._links.values():
            link.flush()
            if link.congested:
                writing.append(link.sock.fileno())
        reading = [fd for fd in self._fds if fd == self._woken_fd or not self._by_fd[fd].said_bye]
        if seconds < _PRECISE_S and self._selectable:
            self._ready, _, _ = select.select(reading, writing, [], seconds)
            return
        poll = select.poll()
        for fd in reading:
            poll.register(fd, select.POLLIN)
        for fd in writing:
            poll.register(fd, select.POLLIN | select.POLLOUT)
        wait_ms = math.ceil(min(seconds, _LONGEST_S) * 1000)
        self._ready = [fd for fd, event in poll.poll(wait_ms) if event & ~select.POLLOUT]

    def exchanged(self) -> tuple[int, int]:
        """As in `Seat`."""
        links = self._links.values()
        return sum(link.sent_bytes for link in links), sum(link.received_bytes for link in links)

    def wake(self) -> None:
        """As in `Seat`."""
        with self._closing, contextlib.suppress(BlockingIOError):
            if self._wake_fd >= 0:
                os.write(self._wake_fd, b"\0")

    def close(self) -> None:
        """As in `Seat`."""
        with self._closing:
            if self._wake_fd < 0:
                return
            deadline_s = time.monotonic() + _GOODBYE_S
            for link in self._links.values():
                link.close(deadline_s)
            os.close(self._woken_fd)
            os.close(self._wake_fd)
            self._wake_fd = -1
