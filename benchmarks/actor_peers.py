"""The work of `workloads/actors_beside.py` by other actor libraries: pykka, Thespian and Ray.

Each is used as it is fastest for the work: pykka's actors are threads, those of Thespian are run by
one thread, or by a process each where processes ask each other, and those of Ray are processes.
None of them saves anything. They are imported when they are used, for they are not always
installed, and their start isn't timed.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.contenders import PYKKA, RAY, THESPIAN

MESSAGES = 100
"""So many go round between the two actors of a pair."""
WAIT_S = 120
PROCESSES = 2
WARM_UP = 200
"""So many asks are made before those that count."""


def timed(ask: Callable[[int], Any], asks: int) -> list[int]:
    """How long each ask took, in nanoseconds, once some have been made that don't count."""
    took_ns: list[int] = []
    for number in range(asks + WARM_UP):
        began_ns = time.perf_counter_ns()
        ask(number)
        took_ns.append(time.perf_counter_ns() - began_ns)
    return took_ns[WARM_UP:]


# pykka


def _pykka_class() -> Any:
    pykka: Any = importlib.import_module("pykka")

    class Member(pykka.ThreadingActor):  # type: ignore[misc] # it isn't always installed
        def __init__(self, done: threading.Semaphore) -> None:
            super().__init__()
            self.done = done
            self.other: Any = None

        def on_receive(self, message: Any) -> Any:
            if message.__class__ is list:
                self.other = message[0]
            elif message:
                self.other.tell(message - 1)
            else:
                self.done.release()
            return message

    return Member


def _pykka_stop() -> None:
    importlib.import_module("pykka").ActorRegistry.stop_all()


def pykka_pair(hops: int) -> float:
    done = threading.Semaphore(0)
    member = _pykka_class()
    pair = [member.start(done), member.start(done)]
    pair[0].tell([pair[1]])
    pair[1].tell([pair[0]])
    try:
        began_s = time.perf_counter()
        for _ in range(MESSAGES):
            pair[0].tell(hops)
        for _ in range(MESSAGES):
            done.acquire()
        return time.perf_counter() - began_s
    finally:
        _pykka_stop()


def pykka_many(actors: int) -> float:
    done = threading.Semaphore(0)
    member = _pykka_class()
    try:
        began_s = time.perf_counter()
        for _ in range(actors):
            member.start(done).tell(0)
        for _ in range(actors):
            done.acquire()
        return time.perf_counter() - began_s
    finally:
        _pykka_stop()


def pykka_asks(asks: int) -> list[int]:
    one = _pykka_class().start(threading.Semaphore(0))
    try:
        return timed(lambda _: one.ask([None]), asks)
    finally:
        _pykka_stop()


# Thespian


@contextmanager
def _thespian(base: str) -> Iterator[tuple[Any, Any]]:
    """Its system, and a class of actors."""
    actors: Any = importlib.import_module("thespian.actors")
    system = actors.ActorSystem(base)
    try:
        yield system, importlib.import_module("benchmarks.thespian_member").Member
    finally:
        system.shutdown()


def thespian_pair(hops: int) -> float:
    with _thespian("simpleSystemBase") as (system, member):
        pair = [system.createActor(member), system.createActor(member)]
        system.ask(pair[0], pair[1], WAIT_S)
        system.ask(pair[1], pair[0], WAIT_S)
        began_s = time.perf_counter()
        for _ in range(MESSAGES):
            system.tell(pair[0], (hops, None))
        for _ in range(MESSAGES):
            assert system.listen(WAIT_S) == 0
        return time.perf_counter() - began_s


def thespian_many(actors: int) -> float:
    with _thespian("simpleSystemBase") as (system, member):
        began_s = time.perf_counter()
        for _ in range(actors):
            system.tell(system.createActor(member), 1)
        for _ in range(actors):
            assert system.listen(WAIT_S) == 1
        return time.perf_counter() - began_s


def thespian_asks(asks: int) -> list[int]:
    with _thespian("multiprocTCPBase") as (system, member):
        one = system.createActor(member)
        return timed(lambda number: system.ask(one, number, WAIT_S), asks)


# Ray


@contextmanager
def _ray() -> Iterator[tuple[Any, Any]]:
    """Ray, and a class of actors."""
    ray: Any = importlib.import_module("ray")
    ray.init(num_cpus=PROCESSES, log_to_driver=False, include_dashboard=False)
    try:
        yield ray, ray.remote(num_cpus=0)(RayMember)
    finally:
        ray.shutdown()


class RayMember:
    """An actor of Ray, which makes a process of it."""

    def __init__(self) -> None:
        self.other: Any = None
        self.ended = 0

    def meet(self, other: list[Any]) -> None:
        self.other = other[0]

    def hop(self, left: int) -> int:
        if left:
            self.other.hop.remote(left - 1)
        else:
            self.ended += 1
        return left

    def count(self) -> int:
        return self.ended


def ray_pair(hops: int) -> float:
    with _ray() as (ray, member):
        pair = [member.remote(), member.remote()]
        ray.get([pair[0].meet.remote([pair[1]]), pair[1].meet.remote([pair[0]])])
        began_s = time.perf_counter()
        for _ in range(MESSAGES):
            pair[0].hop.remote(hops)
        while sum(ray.get([one.count.remote() for one in pair])) < MESSAGES:
            time.sleep(0.01)
        return time.perf_counter() - began_s


def ray_many(actors: int) -> float:
    with _ray() as (ray, member):
        began_s = time.perf_counter()
        made = [member.remote() for _ in range(actors)]
        assert ray.get([one.count.remote() for one in made])
        return time.perf_counter() - began_s


def ray_asks(asks: int) -> list[int]:
    with _ray() as (ray, member):
        one = member.remote()
        ray.get(one.count.remote())
        return timed(lambda _: ray.get(one.hop.remote(0)), asks)


PAIRS = {PYKKA: pykka_pair, THESPIAN: thespian_pair, RAY: ray_pair}
MANY = {PYKKA: pykka_many, THESPIAN: thespian_many, RAY: ray_many}
ASKS = {PYKKA: pykka_asks, THESPIAN: thespian_asks, RAY: ray_asks}
