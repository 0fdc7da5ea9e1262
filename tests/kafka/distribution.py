"""Apache Kafka's jars, which Maven gets once and which are kept outside the checkout."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

POM = Path(__file__).with_name("pom.xml")
JAVA_VERSION = 17
"""Kafka's brokers need at least this one."""
MAVEN_S_MAX = 300

FORMAT = {
    "process.roles": "controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    # It wants ports, which it writes nowhere.
    "controller.quorum.voters": "1@127.0.0.1:9",
    "listeners": "CONTROLLER://127.0.0.1:9",
}
"""What the tool is told that makes an empty data folder."""


class KafkaUnavailableError(Exception):
    """There is no way to run a broker here; says why."""


@dataclass(frozen=True)
class Distribution:
    """Kafka, ready to run.

    Attributes:
        jars: The folder of its jars.
        formatted: An empty data folder, made by Kafka's own tool, to be copied for each broker.
    """

    jars: Path
    formatted: Path

    def java(self, main_class: str, *arguments: str) -> list[str]:
        """The command line that runs one of its programs, tuned to start quickly."""
        tuned = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
        return ["java", *tuned, "-cp", f"{self.jars}/*", main_class, *arguments]


@functools.cache
def distribution() -> Distribution:
    """Kafka from the cache, after getting it if it isn't there yet.

    Raises:
        KafkaUnavailableError: Java or Maven is missing or too old, or Maven can't get the jars.
    """
    _check_java()
    text = POM.read_text(encoding="utf-8")
    version = re.search(r"kafka_2.13</artifactId>\s*<version>([\d.]+)<", text)
    assert version, f"{POM} names no version of Kafka"
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    home = caches / "engine-tests" / f"kafka-{version[1]}-{digest}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with locked(home.parent / f"{home.name}.lock"):
        if not home.exists():
            _make(home)
    return Distribution(home / "jars", home / "formatted")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes want too. It ends with the process, however that ends."""
    with path.open("w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_java() -> None:
    if not shutil.which("java"):
        raise KafkaUnavailableError("there is no Java here, which Apache Kafka needs")
    done = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', done.stderr)
    if not version or int(version[1]) < JAVA_VERSION:
        said = done.stderr.partition("\n")[0]
        raise KafkaUnavailableError(f"Apache Kafka needs Java {JAVA_VERSION}, and here is: {said}")


def _make(home: Path) -> None:
    """Make it beside its place and move it there whole: a crash leaves nothing that looks ready."""
    with tempfile.TemporaryDirectory(dir=home.parent, ignore_cleanup_errors=True) as folder:
        made = Path(folder, "kafka")
        _get_jars(made / "jars")
        _format(Distribution(made / "jars", made / "formatted"))
        made.rename(home)


def _get_jars(jars: Path) -> None:
    if not shutil.which("mvn"):
        raise KafkaUnavailableError("there is no Maven here, which gets Apache Kafka's jars")
    goal = ("dependency:copy-dependencies", f"-DoutputDirectory={jars}")
    command = ["mvn", "--batch-mode", "--quiet", "-f", str(POM), *goal]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=MAVEN_S_MAX
        )
    except subprocess.TimeoutExpired:
        raise KafkaUnavailableError(f"Maven got no jars within {MAVEN_S_MAX} s") from None
    if done.returncode:
        said = (done.stdout + done.stderr).strip()
        raise KafkaUnavailableError(f"Maven could not get Apache Kafka's jars: {said[-1000:]}")


def _format(kafka: Distribution) -> None:
    """Have an empty data folder made, as long as nothing says whose it is: brokers get copies."""
    settings = kafka.formatted.with_name("format.properties")
    write_properties(settings, {**FORMAT, "log.dirs": str(kafka.formatted)})
    cluster = ("--cluster-id", "engine-tests-cluster00")
    command = kafka.java("kafka.tools.StorageTool", "format", *cluster, "--config", str(settings))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def write_properties(path: Path, settings: dict[str, str]) -> None:
    """Write a file as Java reads it."""
    lines = (f"{name}={value}\n" for name, value in settings.items())
    path.write_text("".join(lines), encoding="utf-8")
