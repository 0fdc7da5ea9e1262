"""Who gets into a cluster and who doesn't, over real sockets."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import pickle
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ClusterError
from engine.runtime._address import Address
from engine.runtime._door import Answer, Door, LaterError
from engine.runtime._launch import Cluster, TlsFiles
from engine.runtime._meeting import Arrivals, RunName
from engine.runtime._proof import (
    BODY_MAX,
    CHALLENGE_BYTES,
    Hello,
    JobFacts,
    Purpose,
    Status,
    challenge,
    hello_frame,
    nonce_of,
)
from engine.runtime._wire import Wire
from tests.chaos.cluster import Certificates, free_ports

SECRET = b"sixteen bytes or more"
FACTS = JobFacts("0", "flow", "abc", 2, 1, saves=False)
HELLO = Hello(Purpose.LINK, 1, FACTS, "run", 3, 1, 0)
LONG_S = 20.0
"""Nothing takes so long; a connection that is still open then was not refused."""
Stranger = Callable[[int], None]


class Guests:
    """Decides about connections, and keeps them."""

    def __init__(self, answer: Answer = (Status.WELCOME, "")) -> None:
        self.answer = answer
        self.came: list[tuple[Hello, Wire]] = []
        self.changed = threading.Condition()

    def judge(self, hello: Hello) -> Answer:
        return self.answer

    def take(self, hello: Hello, stream: Any) -> None:
        with self.changed:
            self.came.append((hello, Wire(stream)))
            self.changed.notify()

    def wait(self) -> tuple[Hello, Wire]:
        with self.changed:
            assert self.changed.wait_for(lambda: self.came, LONG_S)
            return self.came[0]


class Host:
    """Two processes of a cluster: the doors of both, and what the first one is told."""

    def __init__(self, tls: tuple[Certificates, Certificates] | None = None) -> None:
        self.guests, self.told = Guests(), list[str]()
        self.ports = free_ports(2)
        self.doors = [self.door(n, tls[n] if tls else None) for n in range(2)]

    def door(self, process: int, tls: Certificates | None, secret: bytes = SECRET) -> Door:
        addresses = tuple(Address("127.0.0.1", port) for port in self.ports)
        files = TlsFiles(tls.certificate, tls.key, tls.authority) if tls else None
        cluster = Cluster(addresses, process, secret, files, 1, str)
        return Door(cluster, self.guests, self.told.append)

    def connect(self) -> Wire:
        return Wire(self.doors[1].connect(0, HELLO, time.monotonic() + LONG_S))

    def tells(self, text: str) -> bool:
        """Whether people are told so, sooner or later."""
        until_s = time.monotonic() + LONG_S
        while not any(text in line for line in self.told):
            if time.monotonic() > until_s:
                return False
            time.sleep(0.005)
        return True

    def works(self) -> bool:
        """Whether who belongs here still gets in, and is heard."""
        self.guests.came.clear()
        wire = self.connect()
        hello, other = self.guests.wait()
        wire.send(("some", "thing"))
        assert hello == HELLO
        heard = other.recv()
        wire.close()
        other.close()
        return heard == ("some", "thing")

    def close(self) -> None:
        for door in self.doors:
            door.close()
        for _, wire in self.guests.came:
            wire.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls") / "right")


@pytest.fixture(params=["plain", "tls"])
def host(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Host]:
    made = Host((certificates, certificates) if request.param == "tls" else None)
    yield made
    made.close()


@pytest.fixture
def plain() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


@pytest.fixture
def secured(certificates: Certificates) -> Iterator[Host]:
    made = Host((certificates, certificates))
    yield made
    made.close()


def refused(sock: socket.socket) -> bool:
    """Whether the other end closes a connection."""
    sock.settimeout(LONG_S)
    with sock, contextlib.suppress(ConnectionError, ssl.SSLError):
        while sock.recv(1 << 16):
            pass
    return True


def raw(host: Host) -> socket.socket:
    """A connection of somebody who has heard the challenge."""
    sock = socket.create_connection(("127.0.0.1", host.ports[0]))
    sock.settimeout(LONG_S)
    return sock


def heard(sock: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        data = sock.recv(count - len(found))
        assert data
        found += data
    return found


def test_who_belongs_there_gets_in(host: Host):
    """And is heard; again and again."""
    assert host.works()
    assert host.works()
    assert host.told == []


def test_large_messages_pass(host: Host):
    """In both directions at the same time, which TLS alone would not bear."""
    wire = host.connect()
    _, other = host.guests.wait()
    message = os.urandom(3 << 20)
    senders = [threading.Thread(target=w.send, args=(message,)) for w in (wire, other)]
    for sender in senders:
        sender.start()
    assert [other.recv(), wire.recv()] == [message, message]
    for sender in senders:
        sender.join()
    wire.close()


def test_another_secret_is_refused(host: Host, request: pytest.FixtureRequest):
    """Both sides are told."""
    tls = request.getfixturevalue("certificates") if "tls" in request.node.name else None
    host.doors[1].close()
    host.doors[1] = host.door(1, tls, b"another one of sixteen bytes")
    with pytest.raises(ClusterError, match="the two have different secrets"):
        host.connect()
    assert host.tells("it does not know the cluster's secret")
    assert host.guests.came == []


def test_who_is_not_welcome_is_told_why(host: Host):
    """For now, or for good."""
    host.guests.answer = (Status.LATER, "in a minute")
    with pytest.raises(LaterError, match="in a minute"):
        host.connect()
    host.guests.answer = (Status.REFUSED, "never")
    with pytest.raises(ClusterError, match="never"):
        host.connect()
    assert host.guests.came == []


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\n\r\n" * 10, os.urandom(5000), b"\0" * 100, b""],
    ids=["http", "noise", "zeros", "nothing"],
)
def test_noise_is_refused(host: Host, said: bytes):
    """Whatever it is, and silence too."""
    sock = raw(host)
    with contextlib.suppress(ConnectionError):
        sock.sendall(said)
    assert refused(sock)
    assert host.works()


def test_a_hello_that_is_too_long_is_refused_before_it_is_read(plain: Host):
    """By what it says of its length."""
    sock = raw(plain)
    sock.sendall(os.urandom(32) + (BODY_MAX + 1).to_bytes(2, "big"))
    assert refused(sock)
    assert plain.tells("2,049 bytes; 2,048 is the most")
    assert plain.works()


def test_a_hello_that_comes_in_drops_is_refused(plain: Host):
    """The time is for all of it, not for each drop."""
    sock = raw(plain)
    heard(sock, CHALLENGE_BYTES)
    until_s = time.monotonic() + LONG_S
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < until_s:
            sock.sendall(b"x")
            time.sleep(0.3)
    sock.close()
    assert plain.tells("the other end was silent for too long")


def test_a_replayed_hello_is_refused(plain: Host):
    """What was right once proves nothing on another connection."""
    sock = raw(plain)
    theirs = nonce_of(heard(sock, CHALLENGE_BYTES))
    hello = hello_frame(SECRET, HELLO, theirs, os.urandom(32))
    sock.sendall(hello)
    plain.guests.wait()[1].close()
    sock.close()
    plain.guests.came.clear()
    again = raw(plain)
    heard(again, CHALLENGE_BYTES)
    again.sendall(hello)
    assert refused(again)
    assert plain.tells("it does not know the cluster's secret")
    assert plain.guests.came == []


class Bomb:
    """Its pickle makes a file when it is decoded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, int]]:
        return os.open, (str(self.path), os.O_CREAT)


def test_no_pickle_of_a_stranger_is_decoded(plain: Host, tmp_path: Path):
    """In place of a hello, within one, or after it."""
    bomb = pickle.dumps(Bomb(tmp_path / "went off"))
    body = bomb.ljust(100, b".")
    hello = os.urandom(32) + len(body).to_bytes(2, "big") + body + os.urandom(32)
    message = len(bomb).to_bytes(4, "big") + bytes(4) + bomb
    for said in (bomb, message, hello, hello + message, hello + bomb):
        sock = raw(plain)
        with contextlib.suppress(ConnectionError):
            sock.sendall(said)
        assert refused(sock)
    assert list(tmp_path.iterdir()) == []
    assert plain.works()
    with contextlib.suppress(FileNotFoundError):
        os.close(pickle.loads(bomb))
    assert list(tmp_path.iterdir()) != [], "the bomb is none"


def test_many_strangers_keep_nobody_out(plain: Host):
    """Who belongs here gets in at once; those that say nothing are closed, the first ones first."""
    strangers = [raw(plain) for _ in range(100)]
    assert plain.works()
    assert refused(strangers[0])
    assert plain.works()
    assert all(map(refused, strangers[1:]))


def test_an_impostor_is_not_believed(plain: Host, tmp_path: Path):
    """Who listens in a process's place and does not know the secret learns nothing of use."""
    bomb = pickle.dumps(Bomb(tmp_path / "went off"))
    plain.doors[0].close()
    server = socket.create_server(("127.0.0.1", plain.ports[0]))

    def pretend() -> None:
        for answer in (b"\0\0\0" + bytes(32), b"\0\0\0" + bomb.ljust(32), b"\0\xff\xff"):
            sock, _ = server.accept()
            with sock:
                sock.sendall(challenge(bytes(32)))
                sock.recv(4096)
                sock.sendall(answer)

    server.settimeout(LONG_S)
    impostor = threading.Thread(target=pretend, daemon=True)
    impostor.start()
    for told in ("does not know the cluster's secret",) * 2 + ("not speak as an engine does",):
        with pytest.raises(ClusterError, match=told):
            plain.connect()
    impostor.join()
    server.close()
    assert list(tmp_path.iterdir()) == []


def stranger(files: Certificates | None, authority: Certificates | None = None) -> Stranger:
    """Connects by TLS with some certificate, and does not care for the other's."""

    def connect(port: int) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if files is not None:
            context.load_cert_chain(files.certificate, files.key)
        sock = socket.create_connection(("127.0.0.1", port))
        sock.settimeout(LONG_S)
        with context.wrap_socket(sock) as tls:
            # The handshake is over for this end; the other one says no when it hears of it.
            assert tls.recv(1)

    return connect


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("none", "did not return a certificate"),
        ("wrong", "certificate verify failed"),
        ("expired", "certificate has expired"),
    ],
)
def test_who_has_not_the_right_certificate_is_refused(
    secured: Host, tmp_path: Path, kind: str, told: str
):
    """Before he hears the challenge."""
    files = None
    if kind == "wrong":
        files = Certificates(tmp_path / "files")
    elif kind == "expired":
        day = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        files = certificate_by(tmp_path, secured, day)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        stranger(files)(secured.ports[0])
    assert secured.tells(told)
    assert secured.works()


def certificate_by(folder: Path, host: Host, expires: dt.datetime) -> Certificates:
    """A certificate that has expired, by an authority that the host's doors trust from now on."""
    files = Certificates(folder / "files", not_after=expires)
    for door in host.doors:
        assert door._identity is not None
        door._identity.contexts()[0].load_verify_locations(files.authority)
    return files


def test_certificates_may_be_replaced_while_it_runs(tmp_path: Path):
    """New connections use the new ones; half of them replaced changes nothing."""
    old, new = Certificates(tmp_path / "old"), Certificates(tmp_path / "new")
    used = Certificates(tmp_path / "used")
    host = Host((used, used))
    assert host.works()
    used.key.write_bytes(new.key.read_bytes())
    assert host.works()
    assert host.tells("the TLS files have changed and can't be used: [X509: KEY_VALUES_MISMATCH]")
    used.certificate.write_bytes(new.certificate.read_bytes())
    used.authority.write_bytes(new.authority.read_bytes())
    assert host.works()
    stranger(new)(host.ports[0])
    with pytest.raises((ssl.SSLError, ConnectionError)):
        stranger(old)(host.ports[0])
    host.close()


def test_a_connection_without_tls_is_refused(secured: Host):
    """What isn't TLS is not read at all."""
    sock = raw(secured)
    sock.sendall(hello_frame(SECRET, HELLO, bytes(32), bytes(32)))
    assert refused(sock)
    assert secured.tells("refused a connection")
    assert secured.works()


def test_tls_with_one_that_has_none_says_so(secured: Host):
    """It isn't tried again and again."""
    secured.doors[0].close()
    secured.doors[0] = secured.door(0, None)
    with pytest.raises(ClusterError, match="process 0 at 127.0.0.1"):
        secured.connect()


def test_a_certificate_for_another_host_is_not_believed(tmp_path: Path, certificates: Certificates):
    """The one who connects looks at the name."""
    import trustme  # noqa: PLC0415

    authority = trustme.CA()
    other = authority.issue_cert("somewhere.example")
    files = Certificates(tmp_path / "files")
    authority.cert_pem.write_to_path(str(files.authority))
    other.private_key_pem.write_to_path(str(files.key))
    other.cert_chain_pems[0].write_to_path(str(files.certificate))
    host = Host((files, files))
    with pytest.raises(ClusterError, match="certificate is not valid for '127.0.0.1'"):
        host.connect()
    host.close()


def test_another_host_is_not_spoken_to_without_tls():
    """Neither is its address listened at."""
    cluster = Cluster((Address("192.0.2.1", 1), Address("127.0.0.1", 1)), 0, SECRET, None, 1, str)
    with pytest.raises(ClusterError, match="without TLS everybody on the way could read"):
        Door(cluster, Guests(), print)
    addresses = Address("127.0.0.1", free_ports(1)[0]), Address("192.0.2.1", 1)
    door = Door(Cluster(addresses, 0, SECRET, None, 1, str), Guests(), print)
    with pytest.raises(ClusterError, match="192.0.2.1:1 is not on this host, and without TLS"):
        door.connect(1, HELLO, time.monotonic() + 1)
    door.close()


def test_an_address_in_use_is_an_error_at_once(plain: Host):
    """It names the address."""
    with pytest.raises(ClusterError, match=f"can't listen at 127.0.0.1:{plain.ports[0]}: Address"):
        plain.door(0, None)


def test_connections_of_generations_that_are_over_are_refused():
    """Those of later ones wait for their run."""
    arrivals = Arrivals()
    ends = [socket.socketpair() for _ in range(3)]
    old, new = Hello(Purpose.LINK, 1, FACTS, "old", 3, 1, 0), HELLO
    newer = Hello(Purpose.LINK, 1, FACTS, "newer", 4, 1, 0)
    for hello, (sock, _) in zip((old, new, newer), ends, strict=True):
        assert arrivals.judge(hello) == (Status.WELCOME, "")
        arrivals.take(hello, sock)
    arrivals.begin(RunName("run", 3))
    assert ends[0][0].fileno() == -1
    assert arrivals.get((Purpose.LINK, "run", 1, 0), 0.0) is ends[1][0]
    arrivals.begin(RunName("newer", 4))
    status, reason = arrivals.judge(new)
    assert (status, reason) == (Status.REFUSED, "generation 3 is over; this is 4")
    assert arrivals.get((Purpose.LINK, "newer", 1, 0), 0.0) is ends[2][0]
    for pair in ends:
        for sock in pair:
            sock.close()
