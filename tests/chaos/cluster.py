"""A cluster of real processes, and somebody who starts again those that have died."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import trustme

from tests.chaos.test_processes import Job
from tests.cli.project import clean_environment

SECRET = "a secret of sixteen bytes or more"
HANG_S = 90.0


def free_ports(count: int) -> list[int]:
    """Ports at which nobody listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


class Certificates:
    """An authority, and a certificate by it, as files.

    Args:
        folder: Where to put them.
        issue: More of what `trustme.CA.issue_cert` takes.
    """

    def __init__(self, folder: Path, **issue: object) -> None:
        folder.mkdir()
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost", **issue)  # type: ignore[arg-type]
        self.authority, self.certificate = folder / "ca.pem", folder / "cert.pem"
        self.key = folder / "key.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        issued.private_key_pem.write_to_path(str(self.key))
        issued.cert_chain_pems[0].write_to_path(str(self.certificate))

    def arguments(self) -> list[str]:
        """For the command line."""
        files = {"--tls-cert": self.certificate, "--tls-key": self.key, "--tls-ca": self.authority}
        return [text for flag, path in files.items() for text in (flag, str(path))]


class Cluster:
    """Processes of a job.

    Args:
        job: The flow, in its folder.
        processes: How many.
        arguments: More of the command line.
        through: For pairs of processes, the port at which the first one finds the second.
    """

    def __init__(
        self,
        job: Job,
        processes: int,
        *arguments: str,
        through: Mapping[tuple[int, int], int] | None = None,
        ports: list[int] | None = None,
        **variables: str,
    ) -> None:
        self.ports = ports or free_ports(processes)
        self.restarts = 0
        self._job = job
        self._arguments = arguments
        self._through = through or {}
        self._variables = variables
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._logs = [job.folder / f"process{number}.log" for number in range(processes)]
        for number in range(processes):
            self.start(number)

    def start(self, number: int, *arguments: str, **variables: str) -> None:
        """Start a process."""
        where = [self._through.get((number, n), port) for n, port in enumerate(self.ports)]
        addresses = ";".join(f"127.0.0.1:{port}" for port in where)
        command = [sys.executable, "-m", "engine.run", "flows:flow", "-i", str(number)]
        environment = {"ENGINE_CLUSTER_SECRET": SECRET, **self._variables, **variables}
        with self._logs[number].open("ab") as log:
            self._processes[number] = subprocess.Popen(
                [*command, "-a", addresses, *self._arguments, *arguments],
                cwd=self._job.folder,
                env={**clean_environment(), **environment},
                stdin=subprocess.DEVNULL,
                stderr=log,
            )

    def replace(self, number: int, *arguments: str, **variables: str) -> None:
        """End a process and start another one in its place."""
        self._processes[number].kill()
        self._processes[number].wait()
        self.start(number, *arguments, **variables)

    def pid(self, number: int) -> int:
        """Of a process."""
        return self._processes[number].pid

    def kill(self, number: int, how: int = signal.SIGKILL) -> None:
        """Send a signal."""
        self._processes[number].send_signal(how)

    def running(self) -> bool:
        """Whether none has ended."""
        return all(process.poll() is None for process in self._processes.values())

    def memory_kb(self, number: int) -> int:
        """How much a process has in memory; 0 when it has ended."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = Path(f"/proc/{self.pid(number)}/status").read_text(encoding="ascii")
            found = re.search(r"VmRSS:\s*(\d+) kB", status)
            return int(found[1]) if found else 0
        return 0

    def said(self, number: int) -> str:
        """What a process has said."""
        return self._logs[number].read_text(encoding="utf-8")

    def all_said(self) -> str:
        """What all have said."""
        return "\n".join(f"--- {n}\n{self.said(n)}" for n in range(len(self._logs)))

    def tend(self) -> bool:
        """Start again what was killed or has given up, as a launcher would; False at the end."""
        codes = {number: process.poll() for number, process in self._processes.items()}
        for number, code in codes.items():
            if code not in (None, 0):
                self.restarts += 1
                self.start(number)
        return any(code != 0 for code in codes.values())

    def wait(self, *, tending: bool) -> list[int]:
        """Wait until all have ended; gives their exit codes."""
        until_s = time.monotonic() + HANG_S
        while self.tend() if tending else any(p.poll() is None for p in self._processes.values()):
            assert time.monotonic() < until_s, f"it hangs: {self.all_said()}"
            time.sleep(0.02)
        return [self._processes[number].returncode for number in sorted(self._processes)]

    def wait_for_output(self) -> None:
        """Wait until something was written."""
        until_s = time.monotonic() + HANG_S
        out = self._job.folder / "out"
        while not any(path.stat().st_size for path in out.iterdir()):
            assert time.monotonic() < until_s, f"it hangs: {self.all_said()}"
            time.sleep(0.01)

    def stop(self) -> None:
        """End what is left."""
        for process in self._processes.values():
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.wait()
