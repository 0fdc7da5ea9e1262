"""Where a process of a cluster meets the others: it listens at its address, and connects to theirs.

Nothing that comes from a connection is believed before its other end has proved itself, by a
certificate where there is TLS and by the cluster's secret in any case. What has not done so within
some seconds is closed, and only so many may be at it at the same time.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from engine.errors import ClusterError, LinkError
from engine.runtime._address import Address
from engine.runtime._launch import Cluster
from engine.runtime._ports import Stream
from engine.runtime._proof import (
    ANSWER_HEAD_BYTES,
    CHALLENGE_BYTES,
    HELLO_HEAD_BYTES,
    NONCE_BYTES,
    Hello,
    Status,
    Unproved,
    answer_frame,
    answer_length,
    answer_of,
    challenge,
    hello_frame,
    hello_length,
    hello_of,
    nonce_of,
)
from engine.runtime._wire import (
    TlsIdentity,
    connected,
    receive_exactly,
    secured,
    send_all,
    tune,
)

PROOF_S_MAX = 5.0
"""How long both ends may take to prove themselves."""
_UNPROVED_MAX = 32
"""How many connections may be about it."""
_TOLD_EVERY_S = 1.0

Answer: TypeAlias = tuple[Status, str]
"""To a hello; what is wrong with it, if something is."""


class Host(Protocol):
    """Who decides about connections that have proved themselves; on threads of the door."""

    def judge(self, hello: Hello) -> Answer:
        """Whether a connection is welcome."""
        ...

    def take(self, hello: Hello, stream: Stream) -> None:
        """Take one that was welcome, and close it when it is done with."""
        ...


class LaterError(LinkError):
    """The other process can't take the connection now, but may be able to in a while."""


class Door:
    """A process's listening socket and its way to others.

    Args:
        cluster: Which cluster, and which process of it.
        host: Decides about connections.
        tell: Takes lines for people.

    Raises:
        ClusterError: This process can't listen there, or must not.
    """

    def __init__(
        self,
        cluster: Cluster,
        host: Host,
        tell: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._host = host
        self._tell = tell
        self._told_s = -_TOLD_EVERY_S
        self._identity: TlsIdentity | None = None
        if cluster.tls is not None:
            try:
                self._identity = TlsIdentity(cluster.tls, tell)
            except OSError as ex:
                names = f"{cluster.tls.certificate}, {cluster.tls.key}, {cluster.tls.authority}"
                msg = f"the TLS files {names} can't be used: {ex}"
                raise ClusterError(msg) from ex
        self._changing = threading.Lock()
        self._unproved: dict[int, socket.socket] = {}
        self._numbers = itertools.count()
        self._socket = self._bound(cluster.addresses[cluster.process])
        threading.Thread(target=self._listen, name="engine-door", daemon=True).start()

    def _bound(self, address: Address) -> socket.socket:
        try:
            family, where = self._checked(address)
        except OSError as ex:
            msg = f"process {self._cluster.process} can't look up its address {address}: {ex}"
            raise ClusterError(msg) from ex
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
            sock.listen(_UNPROVED_MAX)
        except OSError as ex:
            sock.close()
            msg = (
                f"process {self._cluster.process} can't listen at {address}: {ex.strerror or ex}; "
                "its address must be one of this host, and its port free"
            )
            raise ClusterError(msg) from ex
        return sock

    def _checked(self, address: Address) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
        """Look an address up; without TLS only this host itself may be spoken to.

        Raises:
            ClusterError: It may not.
            OSError: There is no such host.
        """
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        family, _, _, _, where = found[0]
        if self._cluster.tls is None and not ipaddress.ip_address(where[0]).is_loopback:
            msg = (
                f"{address} is not on this host, and without TLS everybody on the way could read "
                "and change what workers send each other; give --tls-cert, --tls-key and --tls-ca"
            )
            raise ClusterError(msg)
        return family, where

    def close(self) -> None:
        """Stop listening."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    # Listening

    def _listen(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                if self._socket.fileno() < 0:
                    return
                time.sleep(0.01)  # Out of file descriptors, say, or the other end is gone.
                continue
            number = next(self._numbers)
            with self._changing:
                if len(self._unproved) >= _UNPROVED_MAX:
                    # The one that has had the most time is the least likely to belong here.
                    oldest = self._unproved.pop(min(self._unproved))
                    with contextlib.suppress(OSError):
                        socket.socket.shutdown(oldest, socket.SHUT_RDWR)
                self._unproved[number] = sock
            try:
                threading.Thread(target=self._receive, args=(number, sock), daemon=True).start()
            except RuntimeError:  # Out of threads.
                self._forget(number)
                sock.close()

    def _forget(self, number: int) -> None:
        """A connection has proved itself, or is closed."""
        with self._changing:
            self._unproved.pop(number, None)

    def _receive(self, number: int, sock: socket.socket) -> None:
        """Have a connection prove itself, and hand it on."""
        stream: Stream = sock
        deadline_s = time.monotonic() + PROOF_S_MAX
        try:
            peer = Address(*sock.getpeername()[:2])
            try:
                sock.settimeout(0.0)
                tune(sock)
                if self._identity is not None:
                    listening, _ = self._identity.contexts()
                    tls = listening.wrap_socket(
                        sock, server_side=True, do_handshake_on_connect=False
                    )
                    with self._changing:
                        if number in self._unproved:
                            self._unproved[number] = tls
                    stream = secured(tls, deadline_s)
                self._prove(number, stream, deadline_s)
            except (OSError, ValueError, TypeError) as ex:
                self._tell_refused(peer, ex)
                stream.close()
        except OSError:
            stream.close()
        finally:
            self._forget(number)

    def _prove(self, number: int, stream: Stream, deadline_s: float) -> None:
        secret, nonce = self._cluster.secret, os.urandom(NONCE_BYTES)
        send_all(stream, challenge(nonce), deadline_s)
        head = receive_exactly(stream, HELLO_HEAD_BYTES, deadline_s)
        rest = receive_exactly(stream, hello_length(head), deadline_s)
        theirs = head[:NONCE_BYTES]
        try:
            hello = hello_of(secret, head, rest, nonce)
        except Unproved as ex:
            answer = answer_frame(secret, Status.UNPROVED, str(ex), theirs=theirs, ours=nonce)
            send_all(stream, answer, deadline_s)
            raise
        self._forget(number)
        status, reason = self._host.judge(hello)
        send_all(
            stream, answer_frame(secret, status, reason, theirs=theirs, ours=nonce), deadline_s
        )
        if status is Status.WELCOME:
            self._host.take(hello, stream)
        else:
            stream.close()

    def _tell_refused(self, peer: Address, why: Exception) -> None:
        """Say so, but not so often that it fills a log."""
        now_s = time.monotonic()
        if now_s - self._told_s >= _TOLD_EVERY_S:
            self._told_s = now_s
            self._tell(f"refused a connection from {peer}: {why}")

    # Connecting

    def connect(self, process: int, hello: Hello, deadline_s: float) -> Stream:
        """Connect to another process, prove who we are, and have it prove the same.

        Raises:
            LaterError: It can't take the connection now.
            ClusterError: It never will; or one of the two has not the right secret or certificate.
            OSError: Nobody answers there, or not in time.
        """
        address = self._cluster.addresses[process]
        _, where = self._checked(address)
        connecting = None if self._identity is None else self._identity.contexts()[1]
        try:
            stream = connected(Address(*where[:2]), address.host, connecting, deadline_s)
            stream.settimeout(0.0)
            try:
                status, reason = self._introduce(stream, hello, deadline_s)
            except BaseException:
                stream.close()
                raise
        except (ssl.SSLError, Unproved) as ex:
            if isinstance(ex, ssl.SSLError) and not _is_lasting(ex):
                raise
            msg = f"process {process} at {address}: {ex}"
            raise ClusterError(msg) from ex
        if status is Status.WELCOME:
            return stream
        stream.close()
        msg = f"process {process} at {address} says: {reason}"
        raise LaterError(msg) if status is Status.LATER else ClusterError(msg)

    def _introduce(self, stream: Stream, hello: Hello, deadline_s: float) -> Answer:
        secret, nonce = self._cluster.secret, os.urandom(NONCE_BYTES)
        theirs = nonce_of(receive_exactly(stream, CHALLENGE_BYTES, deadline_s))
        send_all(stream, hello_frame(secret, hello, theirs, nonce), deadline_s)
        head = receive_exactly(stream, ANSWER_HEAD_BYTES, deadline_s)
        rest = receive_exactly(stream, answer_length(head), deadline_s)
        return answer_of(secret, head, rest, theirs=theirs, ours=nonce)


def _is_lasting(error: ssl.SSLError) -> bool:
    """Whether it is about a certificate, or no TLS at all, which trying again would not change."""
    reason = error.reason or ""
    return any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "VERSION", "PROTOCOL"))
