"""The endpoint over real connections: what it answers, to whom, and that nobody can block it."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse

import pytest

from engine.errors import AddressError
from engine.runtime import Address, monitoring
from engine.runtime._endpoint import serve_metrics
from engine.runtime._monitor import Monitor
from engine.runtime._web import CONNECTIONS_MAX
from tests.runtime.scripted import FakeTime
from tests.runtime.test_monitor import IDLE, said

ANY = Address.parse("0")


class Served:
    """A monitor of one worker, and its endpoint."""

    def __init__(self) -> None:
        self.time = FakeTime()
        self.monitor = Monitor(self.time.monotonic_s)
        self.monitor.begin(1)
        self.endpoint = serve_metrics(ANY, self.monitor)
        self.at = self.endpoint.address.host, self.endpoint.address.port

    def ask(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Status and body."""
        response = self.response(path, method)
        return response.status, response.read().decode()

    def response(self, path: str, method: str = "GET") -> HTTPResponse:
        connection = HTTPConnection(*self.at, timeout=30)
        connection.request(method, path)
        return connection.getresponse()


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.endpoint.close()


def test_metrics_are_text_for_prometheus(served: Served):
    """In the version of the format that it asks for by default, and not to be cached."""
    response = served.response("/metrics?name=x")
    assert response.status == 200
    assert response.getheader("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    assert response.getheader("Cache-Control") == "no-store"
    assert response.read().startswith(b"# HELP engine_")


def test_what_serves_is_not_told(served: Served):
    """Which version of Python is nobody's business."""
    assert served.response("/livez").getheader("Server") == "engine "


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics/x", "/../metrics"])
def test_other_paths_are_not_found(path: str, served: Served):
    """The answer says which there are."""
    assert served.ask(path) == (404, "there are /metrics, /livez and /readyz\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE"])
def test_only_get_is_allowed(method: str, served: Served):
    """Whatever the path."""
    for path in ("/metrics", "/nowhere"):
        response = served.response(path, method)
        assert (response.status, response.getheader("Allow")) == (405, "GET")
        assert response.read() == (b"" if method == "HEAD" else b"only GET\n")


def test_readiness_follows_the_monitor(served: Served):
    """503 while it starts and while it is stalled, with the reason in a line."""
    status, why = served.ask("/readyz")
    assert (status, why) == (503, "starting: nothing was heard yet of worker 0\n")
    served.monitor.counted(said(0))
    assert served.ask("/readyz") == (200, "ok\n")
    served.time.now_s += 11.0
    status, why = served.ask("/readyz")
    assert status == 503
    assert why == "stalled: worker 0 has not come back from what it is doing for 11 s\n"
    served.monitor.counted(said(0, IDLE))
    assert served.ask("/readyz") == (200, "ok\n")


def test_liveness_follows_the_leader(served: Served):
    """503 when its loop stands still."""
    assert served.ask("/livez") == (200, "ok\n")
    served.monitor.turned(served.time.now_s)
    served.time.now_s += 11.0
    assert served.ask("/livez") == (503, "the leader's loop has not turned for 11 s\n")


def test_it_listens_on_this_machine_alone(served: Served):
    """Unless an address says otherwise."""
    assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d+", str(served.endpoint.address))


def test_a_port_in_use_is_an_error_that_says_what_to_do(served: Served):
    """Before anything runs."""
    taken = served.endpoint.address
    with pytest.raises(AddressError, match=f"{taken}: something else listens there.* 0 for"):
        serve_metrics(taken, served.monitor)


def test_an_address_of_another_machine_is_an_error():
    """An address for documentation is never one's own."""
    with pytest.raises(AddressError, match="an address of this machine"):
        serve_metrics(Address("192.0.2.1", 0), Monitor(FakeTime().monotonic_s))


def test_slow_clients_block_nobody(served: Served):
    """Of too many the one that came first is sent away."""
    slow = [socket.create_connection(served.at) for _ in range(40)]
    for sock in slow:
        sock.sendall(b"GET /metrics HTTP/1.0\r\nSlow: ")
    assert served.ask("/livez") == (200, "ok\n")
    slow[0].settimeout(30)
    assert slow[0].recv(1) == b""
    assert len(served.endpoint._server._open) <= CONNECTIONS_MAX
    for sock in slow:
        sock.close()


def test_nonsense_is_refused(served: Served):
    """And the next client is served."""
    with socket.create_connection(served.at) as sock:
        sock.sendall(b"\x16\x03\x01 what\r\n\r\n")
        sock.settimeout(30)
        assert b" 400 " in sock.recv(1000)
    assert served.ask("/livez") == (200, "ok\n")


def test_after_the_run_nobody_listens():
    """The port is free again at once, also after connections."""
    told: list[str] = []
    time = FakeTime()
    for _ in range(2):
        with monitoring(ANY, time, told.append) as monitor:
            assert monitor is not None
        url = re.fullmatch(r"metrics at http://(127\.0\.0\.1:\d+)/metrics", told.pop())
        assert url is not None
        host, port = url[1].split(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))


def test_without_an_address_there_is_no_monitor():
    """And nothing to tell."""
    told: list[str] = []
    with monitoring(None, FakeTime(), told.append) as monitor:
        assert monitor is None
    assert told == []


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("9090", "127.0.0.1", 9090),
        (" 0 ", "127.0.0.1", 0),
        ("localhost:65535", "localhost", 65535),
        ("[::1]:80", "::1", 80),
    ],
)
def test_addresses(text: str, host: str, port: int):
    """A port alone is one of this machine."""
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize(
    "text", ["", "x", ":90", "host:", "65536", "-1", "1.5", "::1:90", "a:b:90", "٣", "1" * 30]
)
def test_what_is_no_address(text: str):
    """An IPv6 address without brackets could be read in two ways."""
    with pytest.raises(ValueError, match="such as 9090"):
        Address.parse(text)
