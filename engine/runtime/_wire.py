"""Sockets of a cluster: plain or TLS, read with patience, and whole messages over them.

A worker's links to its peers are read by `engine.runtime._mesh`; here is what lies below, and the
messages between a process and its leader.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import Any
from zlib import crc32

from engine.errors import LinkError
from engine.runtime._address import Address
from engine.runtime._launch import TlsFiles
from engine.runtime._ports import Stream

_TLS_WRITE_BYTES = 1 << 18
_HEAD = struct.Struct(">II")
_SEND_S_MAX = 5.0
"""A process that takes nothing for so long is gone."""


class TlsStream:
    """A TLS connection that behaves like a socket: it blocks, or raises `BlockingIOError`."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self._tls = tls
        self.fileno = tls.fileno
        self.settimeout = tls.settimeout
        # Its own would go on in plain text.
        self.shutdown = functools.partial(socket.socket.shutdown, tls)
        self.close = tls.close

    def recv(self, bufsize: int, /) -> bytes:
        """As of a socket. What was decrypted beyond it is there at once, whatever `select` says."""
        try:
            return self._tls.recv(bufsize)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def greedy(self) -> Stream:
        """The same connection for whoever reads as much as there is, after `select` said so."""
        return _GreedyTls(self._tls)

    def sendmsg(self, buffers: list[Any], /) -> int:
        """As of a socket. What was refused once must be the beginning of what comes next."""
        joined: list[memoryview] = []
        left = _TLS_WRITE_BYTES
        for buffer in buffers:
            joined.append(memoryview(buffer)[:left])
            left -= len(joined[-1])
            if left <= 0:
                break
        try:
            return self._tls.send(b"".join(joined))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None


class _GreedyTls(TlsStream):
    """Leaves nothing decrypted behind that `select` would not tell of; may give a little more."""

    def recv(self, bufsize: int, /) -> bytes:
        """As of a socket."""
        found: list[bytes] = []
        while bufsize > 0 or self._tls.pending():
            try:
                data = super().recv(max(bufsize, self._tls.pending()))
            except OSError:
                if found:
                    break
                raise
            if not data:
                break
            found.append(data)
            bufsize -= len(data)
        return b"".join(found)


class TlsIdentity:
    """What a process shows of itself over TLS, read again when its files have changed.

    Args:
        files: The files.
        tell: Takes lines for people.

    Raises:
        OSError: A file can't be read, or isn't what it should be.
    """

    def __init__(self, files: TlsFiles, tell: Callable[[str], None]) -> None:
        self._files = files
        self._tell = tell
        self._reading = threading.Lock()
        self._stamps = self._stamps_now()
        self._contexts = tls_contexts(files)

    def _stamps_now(self) -> tuple[float, ...]:
        files = (self._files.certificate, self._files.key, self._files.authority)
        return tuple(path.stat().st_mtime for path in files)

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """What the listening and the connecting end use now.

        Files that are wrong, or only half replaced, are said to be so, and what was read before
        stays in use until they are right.
        """
        with self._reading:
            try:
                stamps = self._stamps_now()
                if stamps != self._stamps:
                    self._stamps = stamps
                    self._contexts = tls_contexts(self._files)
            except OSError as ex:
                self._tell(f"the TLS files have changed and can't be used: {ex}")
            return self._contexts


def tls_contexts(files: TlsFiles) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What the listening and the connecting end use: TLS 1.3, both with a certificate to show.

    Raises:
        OSError: A file can't be read, or isn't what it should be.
    """
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    connecting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (listening, connecting):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(files.certificate, files.key)
        context.load_verify_locations(files.authority)
    return listening, connecting


def connected(address: Address, host: str, tls: ssl.SSLContext | None, deadline_s: float) -> Stream:
    """Connect; with TLS, both ends have shown their certificates, and the other's is for its host.

    Args:
        address: Where, looked up.
        host: What it was looked up by.
        tls: How; None for plain TCP.
        deadline_s: By when, on the monotonic clock.

    Raises:
        OSError: There is no connection.
    """
    sock = socket.create_connection(address, timeout=max(0.001, deadline_s - time.monotonic()))
    try:
        tune(sock)
        if tls is None:
            return sock
        wrapped = tls.wrap_socket(sock, do_handshake_on_connect=False, server_hostname=host)
        return secured(wrapped, deadline_s)
    except BaseException:
        sock.close()
        raise


def secured(tls: ssl.SSLSocket, deadline_s: float) -> TlsStream:
    """Shake hands.

    Raises:
        OSError: The other end's certificate isn't good, or it takes too long.
    """
    tls.settimeout(0.0)
    try:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await_ready(tls.fileno(), select.POLLIN, deadline_s)
            except ssl.SSLWantWriteError:
                await_ready(tls.fileno(), select.POLLOUT, deadline_s)
            else:
                return TlsStream(tls)
    except BaseException:
        tls.close()
        raise


def tune(sock: socket.socket) -> None:
    """Small frames go at once, and a host that is gone is noticed on an idle connection too."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def await_ready(fd: int, event: int, deadline_s: float | None) -> None:
    """Wait until a socket can be read or written.

    Raises:
        TimeoutError: The deadline, on the monotonic clock, has passed.
    """
    if fd < 0:
        raise BrokenPipeError  # Closed by the other thread.
    poll = select.poll()
    poll.register(fd, event)
    left_ms = None if deadline_s is None else max(0.0, deadline_s - time.monotonic()) * 1000
    if not poll.poll(left_ms):
        msg = "the other end was silent for too long"
        raise TimeoutError(msg)


def receive_exactly(stream: Stream, count: int, deadline_s: float) -> bytes:
    """So many bytes of a stream that doesn't block.

    Raises:
        OSError: They don't come, or not in time.
    """
    found = b""
    while len(found) < count:
        try:
            data = stream.recv(count - len(found))
        except BlockingIOError:
            await_ready(stream.fileno(), select.POLLIN, deadline_s)
            continue
        if not data:
            msg = "the other end has closed the connection"
            raise ConnectionResetError(msg)
        found += data
    return found


def send_all(stream: Stream, data: bytes, deadline_s: float) -> None:
    """Send bytes over a stream that doesn't block.

    Raises:
        OSError: They can't be sent, or not in time.
    """
    left = memoryview(data)
    while left:
        try:
            left = left[stream.sendmsg([left]) :]
        except BlockingIOError:
            await_ready(stream.fileno(), select.POLLOUT, deadline_s)


class Wire:
    """Messages over a stream whose ends have proved themselves: pickles, each with a checksum.

    Any thread may send. One thread receives, and it alone closes.

    Args:
        stream: Is the wire's own from now on.
        silent_s_max: For so long the other end may say nothing.
    """

    def __init__(self, stream: Stream, silent_s_max: float | None = None) -> None:
        stream.settimeout(0.0)
        self._silent_s_max = silent_s_max
        self._stream = stream
        self._sending = threading.Lock()
        # TLS must not be read and written at the same time.
        self._using = threading.Lock()
        self._closed = False

    def send(self, obj: Any, /) -> None:
        """Send a message.

        Raises:
            OSError: The other end is gone, or takes nothing any more.
        """
        body = pickle.dumps(obj, 5)
        data = memoryview(_HEAD.pack(len(body), crc32(body)) + body)
        with self._sending:
            self._send(data)

    def beat(self, obj: Any, /) -> None:
        """Send a message, but not while another is on its way, which says as much.

        Raises:
            OSError: As `send`.
        """
        body = pickle.dumps(obj, 5)
        if self._sending.acquire(blocking=False):
            try:
                self._send(memoryview(_HEAD.pack(len(body), crc32(body)) + body))
            finally:
                self._sending.release()

    def _send(self, data: memoryview) -> None:
        while data:
            try:
                with self._using:
                    if self._closed:
                        raise BrokenPipeError
                    data = data[self._stream.sendmsg([data]) :]
            except BlockingIOError:
                # The time is for each piece: a long message may take longer.
                deadline_s = time.monotonic() + _SEND_S_MAX
                await_ready(self._stream.fileno(), select.POLLOUT, deadline_s)

    def recv(self) -> Any:
        """The next message.

        Raises:
            TimeoutError: The other end has been silent for too long.
            OSError: It is gone.
            LinkError: What came is damaged.
        """
        length, checksum = _HEAD.unpack(self._exactly(_HEAD.size))
        body = self._exactly(length)
        if crc32(body) != checksum:
            msg = "a message is damaged: its checksum is wrong"
            raise LinkError(msg)
        return pickle.loads(body)  # noqa: S301 - the other end has proved itself

    def _exactly(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            try:
                with self._using:
                    data = self._stream.recv(min(count - len(found), 1 << 20))
            except BlockingIOError:
                silent_s = self._silent_s_max
                deadline_s = None if silent_s is None else time.monotonic() + silent_s
                await_ready(self._stream.fileno(), select.POLLIN, deadline_s)
                continue
            if not data:
                msg = "the other end has closed the connection"
                raise ConnectionResetError(msg)
            found += data
        return bytes(found)

    def shut(self) -> None:
        """End it, so that the thread that receives hears of it; from any thread."""
        with self._using, contextlib.suppress(OSError):
            if not self._closed:
                self._stream.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket."""
        with self._using:
            self._closed = True
            self._stream.close()
