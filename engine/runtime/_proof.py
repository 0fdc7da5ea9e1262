"""How two processes of a cluster prove to each other that they know its secret. Pure.

The one that listens begins; what goes over the connection, in this order::

    challenge   magic 8 | nonce 32
    hello       nonce 32 | length 2 | body | HMAC 32
    answer      status 1 | length 2 | reason | HMAC 32

Each HMAC (SHA-256, RFC 2104) covers who speaks, both nonces and what is said: nothing that was
heard on another connection proves anything on this one. A hello says what the connection is for;
nothing of it is decoded before its HMAC was found right, and then it is a few numbers and short
texts.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import msgpack as untyped_msgpack  # type: ignore[import-untyped]

from engine.errors import LinkError
from engine.operators.tasks._resources import Resources, resources_of

_msgpack: Any = untyped_msgpack

NONCE_BYTES: Final = 32
CHALLENGE_BYTES: Final = 8 + NONCE_BYTES
HELLO_HEAD_BYTES: Final = NONCE_BYTES + 2
ANSWER_HEAD_BYTES: Final = 3
MAC_BYTES: Final = 32
BODY_MAX: Final = 2048
"""No hello and no reason is longer."""
_MAGIC: Final = b"engine\x00\x01"
_LENGTH: Final = struct.Struct(">H")
_ANSWER: Final = struct.Struct(">BH")


class Purpose(IntEnum):
    """What a connection is for."""

    JOIN = 1
    """A process and its leader."""
    PULSE = 2
    """Two processes that want to know of each other's life."""
    LINK = 3
    """Two workers and their batches."""


class Status(IntEnum):
    """How a hello is answered."""

    WELCOME = 0
    LATER = 1
    """The same hello may be welcome in a while."""
    REFUSED = 2
    UNPROVED = 3
    """The HMAC is wrong. The only answer whose own proves nothing."""


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What all processes of a cluster must agree about."""

    version: str
    """Of the engine."""
    flow_id: str
    fingerprint: str
    """Of the flow."""
    processes: int
    workers_each: int
    saves: bool
    """There is a recovery folder."""

    def difference(self, other: JobFacts) -> str | None:
        """What another process has otherwise, as people say it; None if all is the same."""
        told = {
            "version": "the engine is version {}",
            "flow_id": "the flow is {}",
            "fingerprint": "the flow's steps hash to {:.12}",
            "processes": "the cluster has {} addresses",
            "workers_each": "each process has {} workers (-w)",
            "saves": "a recovery folder (-r) is given: {}",
        }
        for name, text in told.items():
            mine, others = getattr(self, name), getattr(other, name)
            if mine != others:
                return f"here {text.format(mine)}, there {text.format(others)}"
        return None


@dataclass(frozen=True, slots=True)
class Hello:
    """What a process says of itself and of the connection that it has opened."""

    purpose: Purpose
    process: int
    """The number of the one that speaks."""
    facts: JobFacts
    run: str = ""
    """Which run of the job a link or a pulse belongs to."""
    generation: int = 0
    sender: int = 0
    """The worker of the process that speaks, if two workers are to be linked."""
    receiver: int = 0
    offer: Resources | None = None
    """What each of its workers offers to tasks; of one that wants to join."""


class Unproved(LinkError):  # noqa: N818 - a LinkError by its place in the tree
    """The other end doesn't know the secret, or doesn't speak as an engine does."""


def challenge(nonce: bytes) -> bytes:
    """What the listening end says first."""
    return _MAGIC + nonce


def nonce_of(challenged: bytes) -> bytes:
    """The nonce of a challenge.

    Raises:
        Unproved: It isn't one.
    """
    if not challenged.startswith(_MAGIC):
        msg = "what listens there is no engine of this version"
        raise Unproved(msg)
    return challenged[len(_MAGIC) :]


def hello_frame(secret: bytes, hello: Hello, theirs: bytes, ours: bytes) -> bytes:
    """What the end that has connected says.

    Args:
        secret: Of the cluster.
        hello: What to say.
        theirs: The nonce of the challenge.
        ours: Our nonce.
    """
    facts = hello.facts
    body: bytes = _msgpack.packb(
        [
            *(int(hello.purpose), hello.process, hello.run, hello.generation),
            *(hello.sender, hello.receiver, facts.version, facts.flow_id, facts.fingerprint),
            *(facts.processes, facts.workers_each, facts.saves),
            {} if hello.offer is None else hello.offer.parts,
        ]
    )
    mac = _mac(secret, b"hello", theirs, ours, body)
    return ours + _LENGTH.pack(len(body)) + body + mac


def hello_length(head: bytes) -> int:
    """How many bytes follow the head of a hello, HMAC included.

    Raises:
        Unproved: More than any hello has.
    """
    (length,) = _LENGTH.unpack_from(head, NONCE_BYTES)
    if length > BODY_MAX:
        msg = f"a hello of {length:,} bytes; {BODY_MAX:,} is the most"
        raise Unproved(msg)
    return int(length) + MAC_BYTES


def hello_of(secret: bytes, head: bytes, rest: bytes, ours: bytes) -> Hello:
    """What the other end has said.

    Raises:
        Unproved: It has no proof that it knows the secret.
    """
    theirs, body, mac = head[:NONCE_BYTES], rest[:-MAC_BYTES], rest[-MAC_BYTES:]
    if not hmac.compare_digest(_mac(secret, b"hello", ours, theirs, body), mac):
        msg = "it does not know the cluster's secret"
        raise Unproved(msg)
    fields = _msgpack.unpackb(body, max_str_len=BODY_MAX, max_array_len=32, max_map_len=32)
    return _hello_of(fields)


def _hello_of(fields: list[Any]) -> Hello:
    purpose, process, run, generation, sender, receiver, *facts, parts = fields
    offer = resources_of(parts) if purpose == Purpose.JOIN else None
    run_of = run, generation, sender, receiver
    return Hello(Purpose(purpose), process, JobFacts(*facts), *run_of, offer)


def answer_frame(
    secret: bytes, status: Status, reason: str, *, theirs: bytes, ours: bytes
) -> bytes:
    """What the listening end says to a hello. Nonces as in `hello_frame`."""
    text = reason.encode()[:BODY_MAX]
    mac = _mac(secret, bytes([status]), theirs, ours, text)
    return _ANSWER.pack(status, len(text)) + text + mac


def answer_length(head: bytes) -> int:
    """How many bytes follow the head of an answer, HMAC included.

    Raises:
        Unproved: More than any answer has.
    """
    _, length = _ANSWER.unpack(head)
    if length > BODY_MAX:
        msg = "what listens there does not speak as an engine does"
        raise Unproved(msg)
    return int(length) + MAC_BYTES


def answer_of(
    secret: bytes, head: bytes, rest: bytes, *, theirs: bytes, ours: bytes
) -> tuple[Status, str]:
    """How the hello was taken, and why. Nonces as in `hello_frame`.

    Raises:
        Unproved: One of the two does not know the secret.
    """
    number, _ = _ANSWER.unpack(head)
    if number == Status.UNPROVED:
        msg = "it does not accept this process's proof: the two have different secrets"
        raise Unproved(msg)
    text, mac = rest[:-MAC_BYTES], rest[-MAC_BYTES:]
    if not hmac.compare_digest(_mac(secret, bytes([number]), ours, theirs, text), mac):
        msg = "what listens there does not know the cluster's secret"
        raise Unproved(msg)
    return Status(number), text.decode(errors="replace")


def _mac(secret: bytes, what: bytes, listener: bytes, speaker: bytes, said: bytes) -> bytes:
    whole = b"\x00".join([what, listener + speaker, said])
    return hmac.digest(secret, whole, hashlib.sha256)
