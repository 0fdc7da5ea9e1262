"""Reviews and a model: each review gets the mood that a service sees in it.

Shows `task` as it is used with language models and other services over HTTP: several reviews go in
one request (`batch`), no more requests than the service takes (`rate`), and it is asked again when
it says that it is busy (`retry`), while other requests go on. Results keep the order of the
reviews. What the service refuses comes out of `errors`.

The service is a small one of this example's own, on this machine: it counts nice words, and every
third request it is busy.

Run it from the top of the project::

    python -m engine.run examples.enrich_reviews:flow
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import engine.operators as op
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow
from engine.operators.tasks import Batching, Exponential, Rate, Retry, TaskError, task
from engine.testing import TestingSource

REVIEWS = [
    "A lovely hotel, and the breakfast was great",
    "The room was cold",
    "Great view",
    "Never again",
    "We love it",
    "The soup was awful, the waiter was rude",
    "Nice and quiet",
]
NICE = {"great", "love", "lovely", "nice"}
BUSY = 503


class BusyError(Exception):
    """The service has too much to do just now."""


class Service(BaseHTTPRequestHandler):
    """The service: gets a list of texts, gives a list of moods."""

    requests = count(1)

    def do_POST(self) -> None:
        """Answer a request."""
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if next(self.requests) % 3 == 0:
            self.send_error(BUSY)
            return
        moods = ["good" if NICE & set(text.lower().split()) else "bad" for text in texts]
        answer = json.dumps(moods).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base
        """Say nothing."""


def started_service() -> int:
    """Start the service; gives its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def asking(port: int) -> Callable[[list[str]], list[tuple[str, str]]]:
    """A function that asks the service at a port for the moods of some reviews."""

    def moods_of(reviews: list[str]) -> list[tuple[str, str]]:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("POST", "/moods", json.dumps(reviews))
            answer = connection.getresponse()
            if answer.status == BUSY:
                raise BusyError
            moods: list[str] = json.loads(answer.read())
        finally:
            connection.close()
        return list(zip(reviews, moods, strict=True))

    return moods_of


def error_line(error: TaskError[str]) -> str:
    """What is told of a review that got no answer."""
    return f"no answer after {error.attempts} requests: {error.record}"


def flow() -> Dataflow:
    """The flow, and its service."""
    flow = Dataflow("enrich_reviews")
    reviews = op.input("reviews", flow, TestingSource(REVIEWS))
    moods = task(
        "mood",
        reviews,
        asking(started_service()),
        executor="thread",
        batch=Batching(size=2, linger=timedelta(milliseconds=20)),
        rate=Rate(50, per=timedelta(seconds=1)),
        retry=Retry(5, Exponential(timedelta(milliseconds=10)), on=(BusyError, OSError)),
        timeout=timedelta(seconds=10),
    )
    op.output("out", op.map("line", moods.ok, lambda pair: f"{pair[1]}: {pair[0]}"), StdOutSink())
    op.output("failed", op.map("failed_line", moods.errors, error_line), StdOutSink())
    return flow
