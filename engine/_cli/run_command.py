"""The command line of `engine.run`: its options, its environment, its help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from engine._cli.arguments import (
    Given,
    Parser,
    Setting,
    UsageError,
    add_settings,
    addresses,
    count,
    duration,
    index,
    port,
    resources,
    settings_of,
    size,
)
from engine.recovery import RecoveryConfig
from engine.runtime import (
    DEFAULT_EPOCH_INTERVAL,
    DEFAULT_SOURCE_TIMEOUT,
    Address,
    Layout,
    TlsFiles,
    check_offer,
    secret_of,
)

_DESCRIPTION = "Run a dataflow."
_EPILOG = """\
IMPORT_STR is one of
  module                      the flow called `flow` in it, or its only one
  module:name                 the flow of that name
  module:make("a", 1, b=2)    what a function returns for these literals
  path/to/file.py[:...]       the same for a file, whose folder can be imported from

Options may be given in the environment, by the names in brackets; the command line wins.
Durations are seconds (10, 0.5) or have a unit (250ms, 1.5s, 1m, 1h).

The first Ctrl-C, or SIGTERM, drains: sources stop, what was read is worked off and written.

exit codes:
  0    the input has ended, or the run was drained after SIGTERM
  1    the run failed
  2    the command line, the module or the flow is wrong; nothing was run
  130  Ctrl-C
  141  nobody reads standard output any more
  143  SIGTERM, and the drain was not over in time
"""


def _offer(text: str) -> dict[str, float]:
    """What workers offer, by name; a ValueError if they can't."""
    said = resources(text)
    check_offer(said)
    return said


SETTINGS = (
    Setting(
        "workers",
        ("-w", "--workers-per-process"),
        "ENGINE_WORKERS_PER_PROCESS",
        count,
        1,
        "N",
        "workers in each process, as threads: for flows that wait more than they work",
    ),
    Setting(
        "processes",
        ("-p", "--processes"),
        "ENGINE_PROCESSES",
        count,
        1,
        "N",
        "processes on this machine, to use its cores; they import the flow by IMPORT_STR",
    ),
    Setting(
        "process_id",
        ("-i", "--process-id"),
        "ENGINE_PROCESS_ID",
        index,
        None,
        "ID",
        "which of the addresses is this process, from 0",
    ),
    Setting(
        "addresses",
        ("-a", "--addresses"),
        "ENGINE_ADDRESSES",
        addresses,
        None,
        "HOST:PORT;...",
        "addresses of all processes of a cluster, in the same order for each; process 0 leads",
    ),
    Setting(
        "secret_file",
        ("--secret-file",),
        "ENGINE_CLUSTER_SECRET_FILE",
        str,
        None,
        "FILE",
        "the secret by which processes of a cluster know each other, in a file that nobody else "
        "can read; or give it in ENGINE_CLUSTER_SECRET",
    ),
    Setting(
        "tls_cert",
        ("--tls-cert",),
        "ENGINE_TLS_CERT",
        str,
        None,
        "FILE",
        "this process's certificate, for its address and both as server and client (PEM)",
    ),
    Setting("tls_key", ("--tls-key",), "ENGINE_TLS_KEY", str, None, "FILE", "its key (PEM)"),
    Setting(
        "tls_ca",
        ("--tls-ca",),
        "ENGINE_TLS_CA",
        str,
        None,
        "FILE",
        "who must have signed the certificates of the others (PEM)",
    ),
    Setting(
        "epoch_interval",
        ("-s", "--snapshot-interval"),
        "ENGINE_SNAPSHOT_INTERVAL",
        duration,
        DEFAULT_EPOCH_INTERVAL,
        "TIME",
        "time between epochs, 10 s by default; 0 makes each batch of a source an epoch",
    ),
    Setting(
        "recovery_directory",
        ("-r", "--recovery-directory"),
        "ENGINE_RECOVERY_DIRECTORY",
        str,
        None,
        "DIR",
        "folder of the recovery store, made if need be: the same command goes on where a run, "
        "however it ended, stopped",
    ),
    Setting(
        "backup_interval",
        ("-b", "--backup-interval"),
        "ENGINE_RECOVERY_BACKUP_INTERVAL",
        duration,
        None,
        "TIME",
        "how long older epochs are kept, to be restored with `python -m engine.recovery`",
    ),
    Setting(
        "state_memory",
        ("--state-memory",),
        "ENGINE_STATE_MEMORY",
        size,
        None,
        "SIZE",
        "how much memory the states of a worker may take, such as 256MB; the rest stays in the "
        "recovery store, which it needs (-r)",
    ),
    Setting(
        "metrics",
        ("--metrics",),
        "ENGINE_METRICS",
        Address.parse,
        None,
        "ADDRESS",
        "serve metrics and health for Prometheus at a port of this machine, or at HOST:PORT; "
        "port 0 is any that is free",
    ),
    Setting(
        "ask",
        ("--ask",),
        "ENGINE_ASK",
        port,
        None,
        "PORT",
        "answer questions about actors, from what is saved in the recovery store (-r), at a port "
        "of this machine: GET /actors/STEP/KEY; 0 is any that is free",
    ),
    Setting(
        "resources",
        ("--resources",),
        "ENGINE_RESOURCES",
        _offer,
        None,
        "NAME=N,...",
        "what each worker of this process offers to tasks, such as cpu=2,gpu=1,memory=4GB; by "
        "default its share of this machine's processors (cpu) and memory",
    ),
    Setting(
        "source_timeout",
        ("--source-timeout",),
        "ENGINE_SOURCE_TIMEOUT",
        duration,
        DEFAULT_SOURCE_TIMEOUT,
        "TIME",
        "for how long a source that can't be reached is asked again, 60 s by default",
    ),
    Setting(
        "drain_timeout",
        ("--drain-timeout",),
        "ENGINE_DRAIN_TIMEOUT",
        duration,
        timedelta(seconds=5),
        "TIME",
        "how long a drain may take, 5 s by default",
    ),
)


@dataclass(frozen=True, slots=True)
class ClusterPlace:
    """Which process of which cluster this is."""

    addresses: tuple[Address, ...]
    process: int
    secret: bytes
    tls: TlsFiles | None


@dataclass(frozen=True, slots=True)
class RunCommand:
    """What the command line and the environment ask for."""

    import_str: str
    layout: Layout
    place: ClusterPlace | None
    """Which process of a cluster this is to be; None if it's none."""
    epoch_interval: timedelta
    source_timeout: timedelta
    drain_timeout: timedelta
    recovery: RecoveryConfig | None
    metrics: Address | None
    ask: int | None
    """The port at which actors answer."""
    resources: Mapping[str, float] | None
    """What each worker offers to tasks, as far as it is said."""
    verbose: bool


def parse_run_command(argv: Sequence[str] | None, environ: Mapping[str, str]) -> RunCommand:
    """What arguments (None: this process's own) and environment ask for.

    Raises:
        UsageError: They make no sense, or ask for what isn't supported yet.
        SystemExit: They asked for the help or the version, which is printed now.
    """
    parser = Parser("python -m engine.run", _DESCRIPTION, _EPILOG)
    parser.add_argument("import_str", metavar="IMPORT_STR", help="what to run, see below")
    add_settings(parser, SETTINGS)
    parser.add_argument(
        "--verbose", action="store_true", help="report errors with the engine's own frames"
    )
    arguments = parser.parse_args(argv)
    given = settings_of(arguments, SETTINGS, environ)
    given.update(_from_pod(given, environ))
    return RunCommand(
        arguments.import_str,
        Layout(given["processes"].value, given["workers"].value),
        _cluster_place(given, environ),
        given["epoch_interval"].value,
        given["source_timeout"].value,
        given["drain_timeout"].value,
        _recovery(given),
        given["metrics"].value,
        given["ask"].value,
        given["resources"].value,
        arguments.verbose,
    )


def _recovery(given: Mapping[str, Given]) -> RecoveryConfig | None:
    folder, memory = given["recovery_directory"].value, given["state_memory"]
    backup = given["backup_interval"]
    if folder is not None:
        return RecoveryConfig(folder, backup.value, create=True, state_memory=memory.value)
    if backup.value is not None:
        msg = f"{backup.origin}: older epochs are kept in a recovery store; give one (-r)"
        raise UsageError(msg)
    if memory.value is not None:
        msg = f"{memory.origin}: what doesn't fit in memory goes to a recovery store; give one (-r)"
        raise UsageError(msg)
    ask = given["ask"]
    if ask.value is not None:
        msg = f"{ask.origin}: actors tell what is saved in a recovery store; give one (-r)"
        raise UsageError(msg)
    return None


def _from_pod(given: Mapping[str, Given], environ: Mapping[str, str]) -> dict[str, Given]:
    """What a Kubernetes stateful set says of a process: its number and a file of addresses."""
    found: dict[str, Given] = {}
    pod, stateful_set = environ.get("ENGINE_POD_NAME"), environ.get("ENGINE_STATEFULSET_NAME")
    hosts = environ.get("ENGINE_HOSTFILE_PATH")
    origin = ""
    try:
        if given["process_id"].value is None and pod and stateful_set:
            origin = f"ENGINE_POD_NAME={pod}"
            found["process_id"] = Given(index(pod.removeprefix(f"{stateful_set}-")), origin)
        if given["addresses"].value is None and hosts:
            origin = f"ENGINE_HOSTFILE_PATH={hosts}"
            lines = Path(hosts).read_text(encoding="utf-8").split()
            found["addresses"] = Given(addresses(";".join(lines)), origin)
    except (OSError, ValueError) as ex:
        msg = f"{origin}: {ex}"
        raise UsageError(msg) from None
    return found


def _cluster_place(given: Mapping[str, Given], environ: Mapping[str, str]) -> ClusterPlace | None:
    hosts, process, processes = given["addresses"], given["process_id"], given["processes"]
    if hosts.value is None or len(hosts.value) == 1:
        if process.value:
            msg = f"{process.origin}: a process other than 0 needs the addresses of all (-a)"
            raise UsageError(msg)
        return None
    if process.value is None:
        msg = f"{hosts.origin}: which of these is this process? Say so with -i"
        raise UsageError(msg)
    if process.value >= len(hosts.value):
        msg = f"{process.origin}: there are {len(hosts.value)} addresses; the first is 0"
        raise UsageError(msg)
    if processes.value > 1:
        msg = (
            f"{processes.origin}: processes of a cluster (-a) are not spawned; give each its "
            "address, or its workers with -w"
        )
        raise UsageError(msg)
    try:
        addresses = tuple(map(Address.parse, hosts.value))
    except ValueError as ex:
        msg = f"{hosts.origin}: {ex}; an address of IPv6 has brackets, as in [::1]:2101"
        raise UsageError(msg) from None
    return ClusterPlace(addresses, process.value, _secret(given, environ), _tls_files(given))


def _secret(given: Mapping[str, Given], environ: Mapping[str, str]) -> bytes:
    """What processes of a cluster prove themselves with."""
    file, origin = given["secret_file"], "ENGINE_CLUSTER_SECRET"
    secret = environ.get(origin, "")
    if file.value is not None:
        origin = file.origin
        try:
            path = Path(file.value)
            mode = path.stat().st_mode & 0o777
            secret = path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as ex:
            msg = f"{origin}: {getattr(ex, 'strerror', None) or ex}"
            raise UsageError(msg) from None
        if mode & 0o077:
            msg = f"{origin}: others can read it (its mode is {mode:o}); make it 600"
            raise UsageError(msg)
    elif not secret:
        msg = (
            "a cluster needs a secret that all of its processes know and nobody else: give it in "
            f"{origin}, or in a file with --secret-file (openssl rand -hex 32 makes one)"
        )
        raise UsageError(msg)
    try:
        return secret_of(secret)
    except ValueError as ex:
        msg = f"{origin}: {ex}"
        raise UsageError(msg) from None


def _tls_files(given: Mapping[str, Given]) -> TlsFiles | None:
    files = [given[name] for name in ("tls_cert", "tls_key", "tls_ca")]
    values = [file.value for file in files]
    if not any(values):
        return None
    if not all(values):
        origin = next(file.origin for file in files if file.value)
        msg = f"{origin}: TLS needs all of --tls-cert, --tls-key and --tls-ca"
        raise UsageError(msg)
    return TlsFiles(*map(Path, values))
