"""A job that counts messages of Kafka by key, and what must be true of its output.

The flow is `counting_flow`, run by the real command on a store of its own. Whatever happens to its
runs, in the end each message must have been counted once, in an order that each key can tell.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from confluent_kafka import Consumer, Message

from engine.recovery._manifest import Manifest, decode_manifest
from tests.chaos.processes import alive, children_of
from tests.cli.project import clean_environment
from tests.kafka.client import Kafka, committed_offset

FLOW = Path(__file__).with_name("counting_flow.py")
REPOSITORY = Path(__file__).parents[2]
PARTITIONS, KEYS = 4, 40
SHARDS = [f"worker-{number}" for number in range(3)]
"""Of the sink, in a run with as many workers as any of the drills has."""
HANG_S = 90.0
"""A run that takes longer than this hangs."""

Input = tuple[int, int]
"""Partition and offset of a message that was to be counted."""


@dataclass(frozen=True)
class Output:
    """A message that the job has written.

    Attributes:
        key: Of it.
        count: The how-many-th of its key it says it is.
        of: The message that was counted.
    """

    key: str
    count: int
    of: Input

    @staticmethod
    def from_message(message: Message) -> Output:
        """What a message says."""
        count, partition, offset = map(int, message.value().split())
        return Output(message.key().decode(), count, (partition, offset))


@dataclass(frozen=True)
class Load:
    """How much there is to do.

    Attributes:
        records: In each partition.
        pause_s: After each batch of 25.
        interval: Between epochs.
        delivery: Of the sink.
        tail: Whether the source waits for more at the end of its topic.
    """

    records: int = 1500
    pause_s: float = 0.015
    interval: str = "100ms"
    delivery: str = "exactly-once"
    tail: bool = False


@dataclass
class Counting:
    """A job: topics, a store, and the runs that it has had.

    Attributes:
        folder: Where the store and the log go.
        kafka: How the test reaches the broker.
        name: How its topics begin.
        load: How much there is to do.
        broker: How the runs reach the broker, if not as the test does.
        runs: All that were started.
        fed: How many messages there are in each partition of the input so far.
        store: The folder of its recovery store.
    """

    folder: Path
    kafka: Kafka
    name: str
    load: Load = field(default_factory=Load)
    broker: str = ""
    runs: list[subprocess.Popen[bytes]] = field(default_factory=list)
    fed: int = 0

    @property
    def source(self) -> str:
        """The topic that it reads."""
        return f"{self.name}-in"

    @property
    def target(self) -> str:
        """The topic that it writes."""
        return f"{self.name}-out"

    def __post_init__(self) -> None:
        """Its store is in its folder, as long as no test has another take over."""
        self.store = self.folder / "store"
        self._readers: dict[str, Consumer] = {}

    @property
    def log(self) -> Path:
        """What its runs have said."""
        return self.folder / "runs.log"

    def prepare(self) -> Counting:
        """Make the topics, and the input unless it is to come later."""
        self.folder.mkdir(exist_ok=True)
        self.kafka.create_topic(self.source, PARTITIONS)
        self.kafka.create_topic(self.target, 3)
        if not self.load.tail:
            self.feed(self.load.records)
        return self

    def feed(self, count: int) -> None:
        """Write more of the input to each partition."""
        for partition in range(PARTITIONS):
            spots = ((partition, offset) for offset in range(self.fed, self.fed + count))
            keyed = ((_key_of(spot), None) for spot in spots)
            self.kafka.produce(self.source, keyed, partition=partition)
        self.fed += count

    @cached_property
    def inputs(self) -> dict[Input, str]:
        """The keys of all messages there are to count."""
        numbers = range(self.load.records)
        spots = [(partition, offset) for partition in range(PARTITIONS) for offset in numbers]
        return {spot: _key_of(spot) for spot in spots}

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a run, in a group of processes of its own.

        Args:
            arguments: For the command line.
        """
        command = [sys.executable, "-m", "engine.run", str(FLOW), *arguments]
        own = {
            "COUNTING_BROKER": self.broker or self.kafka.address,
            "COUNTING_SOURCE": self.source,
            "COUNTING_TARGET": self.target,
            "COUNTING_DELIVERY": self.load.delivery,
            "COUNTING_PAUSE_S": str(self.load.pause_s),
            "COUNTING_TAIL": "tail" if self.load.tail else "",
        }
        with self.log.open("ab") as log:
            run = subprocess.Popen(
                [*command, "-r", str(self.store), "-s", self.load.interval],
                cwd=REPOSITORY,
                env={**clean_environment(), **own},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self.runs.append(run)
        return run

    def said(self) -> str:
        """What all its runs have said."""
        return self.log.read_text(encoding="utf-8")

    def wait(self, run: subprocess.Popen[bytes]) -> int:
        """Wait for the end of a run; gives its exit code."""
        try:
            return run.wait(HANG_S)
        except subprocess.TimeoutExpired:
            kill(run)
            raise AssertionError(f"the run hangs: {self.said()[-3000:]}") from None

    def finish(self, *arguments: str) -> None:
        """Run it to its good end."""
        assert self.wait(self.start(*arguments)) == 0, self.said()

    def close(self) -> None:
        """End what still runs."""
        for run in self.runs:
            kill(run)

    def manifest(self) -> Manifest | None:
        """The store's newest manifest, if there is a store yet."""
        folder = self.store / "manifests"
        for _ in range(100):
            names = sorted(path.name for path in folder.glob("*.json")) if folder.is_dir() else []
            if not names:
                return None
            # Older ones are deleted now and then, so this one may have been the newest.
            with contextlib.suppress(FileNotFoundError):
                return decode_manifest((folder / names[-1]).read_bytes())
        raise AssertionError("manifests come and go")

    def epoch(self) -> int:
        """The last durable epoch."""
        manifest = self.manifest()
        return manifest.epoch if manifest else 0

    def positions(self) -> dict[int, int]:
        """How far each partition was read in the last durable epoch. Nothing may run."""
        command = [
            sys.executable,
            "-m",
            "engine.recovery",
            "export",
            str(self.store),
            "counting.in",
        ]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        rows = map(json.loads, done.stdout.splitlines())
        return {int(row["partition"].split("-")[0]): _offset(row["state"]) for row in rows}

    def markers(self) -> dict[str, int]:
        """Which epoch is out, by shard, as Kafka has it."""
        manifest = self.manifest()
        if manifest is None:
            return {}
        if not self._readers:
            groups = {name: f"engine-{manifest.store_id}-counting.out-{name}" for name in SHARDS}
            self._readers = {
                name: self.kafka.reader_of_group(group) for name, group in groups.items()
            }
        found = {
            name: committed_offset(reader, self.target) for name, reader in self._readers.items()
        }
        return {name: offset for name, offset in found.items() if offset is not None}

    def check(self, *, watched: list[Message] | None = None) -> None:
        """Each message was counted once, and for each key in order.

        Args:
            watched: What a reader saw that ran beside the job: it must have seen what is there.
        """
        messages = self.kafka.read_all(self.target)
        outputs = list(map(Output.from_message, messages))
        doubled = [spot for spot, times in Counter(o.of for o in outputs).items() if times > 1]
        assert doubled == [], self.said()
        assert {output.of: output.key for output in outputs} == self.inputs, self.said()
        counts = defaultdict(list)
        for output in outputs:
            counts[output.key].append(output.count)
        wanted = Counter(self.inputs.values())
        assert counts == {key: list(range(1, n + 1)) for key, n in wanted.items()}
        if watched is not None:
            assert sorted(map(_spot, watched)) == sorted(map(_spot, messages))

    def check_at_least_once(self) -> set[Input]:
        """No message was lost; gives those that were counted in more than one output."""
        outputs = [Output.from_message(m) for m in self.kafka.read_all(self.target)]
        assert {output.of: output.key for output in outputs} == self.inputs, self.said()
        return {spot for spot, times in Counter(o.of for o in outputs).items() if times > 1}


def check_order(messages: Iterable[Message]) -> None:
    """As far as they go, the counts of each key are 1, 2, 3 and so on."""
    counts: dict[str, int] = {}
    for output in map(Output.from_message, messages):
        assert output.count == counts.get(output.key, 0) + 1, output
        counts[output.key] = output.count


def kill(run: subprocess.Popen[bytes]) -> None:
    """End a run with `kill -9`, all its processes at once."""
    if run.poll() is None:
        workers = children_of(run.pid)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        # They may take a moment longer, and hold the store until then.
        wait_until(lambda: not any(map(alive, workers)), "the end of all processes")


def wait_until(done: Callable[[], bool], what: str, timeout_s: float = HANG_S) -> None:
    """Wait for something that is about to happen."""
    until_s = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < until_s, f"it never came: {what}"
        time.sleep(0.002)


def _key_of(spot: Input) -> str:
    partition, offset = spot
    return f"key{(offset * 7 + partition * 13) % KEYS}"


def _spot(message: Message) -> tuple[int, int, bytes]:
    return message.partition(), message.offset(), message.value()


def _offset(state: Mapping[str, str]) -> int:
    """Of a source's position, which is an offset and the topic's id."""
    offset, _ = ast.literal_eval(state["repr"])
    return int(offset)
