"""Actors of runs from the command line, asked over HTTP: `--ask`."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest

from engine.run import main
from tests.cli.project import Project, Running, clean_environment

FLOWS = """
import os
import pathlib
from dataclasses import dataclass
from engine.operators.actors import Actor, actor, handles, shared

KEYS = [f"k{i}" for i in range(20)]

class Numbers(FixedPartitionedSource):
    def list_parts(self):
        return ["0", "1"]

    def build_part(self, step_id, for_part, resume_state):
        return Part(for_part, resume_state or 0)

class Part(StatefulSourcePartition):
    '''Five for each key, then nothing until the run is stopped.'''

    def __init__(self, name, at):
        self.name, self.at = name, at

    def next_batch(self):
        if self.at == 5:
            if self.name == "1" and pathlib.Path("die").exists():
                pathlib.Path("die").unlink()
                os.kill(os.getpid(), 9)
            return []
        self.at += 1
        return [(key, 1) for key in KEYS]

    def snapshot(self):
        return self.at

class Account(Actor):
    @dataclass
    class State:
        balance: int = 0

    @handles(int)
    def deposit(self, ctx, amount: int):
        self.state.balance += amount
        ctx.emit((ctx.key, str(self.state.balance)))

    @shared
    def balance(self, asked):
        return self.state.balance

class Deaf(Actor):
    @handles(int)
    def hear(self, ctx, n: int): ...

def make(cls=""):
    flow = Dataflow("flow")
    numbers = op.input("in", flow, Numbers())
    accounts = actor("accounts", numbers, Deaf if cls == "deaf" else Account)
    op.output("out", accounts.out, FileSink("out.txt"))
    return flow
"""


def address_of(run: Running) -> str:
    """What a run says first of all."""
    found = re.fullmatch(
        r"info: actors answer at (http://127\.0\.0\.1:\d+)/actors", run.line("stderr")
    )
    assert found is not None
    return found[1]


def ask(
    url: str, target: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    """Status, body and headers."""
    at = urlsplit(url)
    connection = HTTPConnection(str(at.hostname), at.port or 0, timeout=30)
    try:
        connection.request(method, target, headers=headers or {})
        response = connection.getresponse()
        body = response.read().decode()
    finally:
        connection.close()
    kind = response.getheader("Content-Type")
    return (
        response.status,
        json.loads(body) if kind == "application/json" else body,
        dict(response.getheaders()),
    )


def once(url: str, target: str, expected: Any) -> dict[str, str]:
    """Ask until that is answered; the run's watchdog ends it if it never is."""
    while True:
        status, found, headers = ask(url, target)
        assert status in {200, 404, 503}, found
        if (status, found) == (200, expected):
            return headers


@pytest.mark.parametrize(
    ("first", "then"), [("-w 1", "-w 3"), ("-w 2", "-p 2"), ("-p 2", "-w 1"), ("-p 2 -w 2", "-p 3")]
)
def test_one_address_answers_for_all_keys(first: str, then: str, project: Project):
    """Wherever they are; while the job runs, and when others have them in a later run."""
    project.write("flows.py", FLOWS)
    for how in (first, then):
        run = project.start("flows:make", *how.split(), "-r", "store", "-s", "50ms", "--ask", "0")
        url = address_of(run)
        for number in range(20):
            headers = once(url, f"/actors/accounts/k{number}?ask=balance", 10)
            assert int(headers["Engine-Epoch"]) >= 1
        status, why, _ = ask(url, "/actors/accounts/k20")
        assert (status, "has no Account with key 'k20'" in why) == (404, True)
        run.process.terminate()
        outcome = run.ended()
        assert (outcome.code, "Traceback" in outcome.err) == (0, False)


def test_the_address_lives_through_the_death_of_a_process(project: Project):
    """Meanwhile it says that the job isn't running, and nobody is left to wait."""
    project.write("flows.py", FLOWS)
    run = project.start("flows:make", "-p", "2", "-r", "store", "-s", "50ms", "--ask", "0")
    url = address_of(run)
    once(url, "/actors/accounts/k1", 10)
    project.folder.joinpath("die").touch()
    while project.folder.joinpath("die").exists():
        assert ask(url, "/actors/accounts/k1")[0] in {200, 503}
    once(url, "/actors/accounts/k1", 10)
    run.process.terminate()
    outcome = run.ended()
    assert (outcome.code, outcome.err.count("going on from the last epoch")) == (0, 1)


def test_what_is_asked_of_it_is_checked(project: Project):
    """Methods, names of hosts, and when there is nothing saved yet."""
    project.write("flows.py", FLOWS)
    run = project.start("flows:make", "-r", "store", "-s", "1h", "--ask", "0")
    url = address_of(run)
    for method in ("POST", "PUT", "DELETE", "HEAD"):
        status, _, headers = ask(url, "/actors/accounts/k1", method)
        assert (status, headers["Allow"]) == (405, "GET")
    # A page of another site that has pointed its name at this machine.
    status, why, _ = ask(url, "/actors/accounts/k1", headers={"Host": "site.example:80"})
    assert (status, "only this machine's own names" in why) == (403, True)
    why = "the job is not running now\n"
    while why == "the job is not running now\n":
        status, why, headers = ask(url, "/actors/accounts/k1", headers={"Host": "localhost"})
        assert (status, headers["Retry-After"]) == (503, "1")
    assert why == "no epoch is saved yet, and what isn't saved can't be told\n"
    assert ask(url, "/actors")[1] == {"accounts": {"Account": ["balance"]}}
    run.process.terminate()
    assert run.ended().code == 0


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["flows:make"], "--ask 0: actors tell what is saved in a recovery store; give one (-r)"),
        (["flows:make('deaf')", "-r", "store"], "no step of the flow has actors that could be"),
    ],
)
def test_where_nothing_could_be_answered_the_run_does_not_start(
    argv: list[str], why: str, project: Project
):
    """It would be asked in vain for ever."""
    project.write("flows.py", FLOWS)
    outcome = project.call(main, *argv, "--ask", "0")
    assert (outcome.code, why in outcome.err) == (2, True), outcome.err


@pytest.mark.parametrize("port", ["x", "65536", "-1", "127.0.0.1:80"])
def test_what_is_no_port_is_refused(port: str, project: Project):
    """There is no host to be given: it is this machine's own address alone."""
    outcome = project.call(main, "flows:make", "-r", "store", f"--ask={port}")
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: --ask {port}: must be a port of this machine")


def test_a_port_in_use_ends_the_start(project: Project):
    """Before the flow runs: what is wrong, where, and what to do."""
    project.write("flows.py", FLOWS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        outcome = project.call(main, "flows:make", "-r", "store", "--ask", port)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"error: can't serve actors at 127.0.0.1:{port}: something else listens" in outcome.err


def test_without_it_nothing_of_it_is_loaded(project: Project):
    """Most runs would only start later for it."""
    project.write(
        "flows.py", FLOWS.replace("            return []", "            raise StopIteration")
    )
    program = (
        "import sys; from engine.run import main; main(['flows:make'])\n"
        "print(sorted({'http.server', 'engine.runtime._web', 'engine.runtime._actor_answers', "
        "'engine.runtime._actor_endpoint'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
