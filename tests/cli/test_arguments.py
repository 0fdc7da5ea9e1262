"""Options, their kinds of values, and the environment that may give them too."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine import __main__ as top
from engine import run, visualize
from engine._cli.arguments import UsageError, addresses, count, duration, index, resources
from engine._cli.exits import Exit
from engine._cli.run_command import SETTINGS, parse_run_command
from engine.runtime import Layout, TlsFiles
from tests.cli.project import Project
from tests.tidy.tree import ROOT


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("10", 10_000),
        ("0", 0),
        ("0.5", 500),
        (".5s", 500),
        ("250ms", 250),
        ("1.5s", 1500),
        ("1m", 60_000),
        ("2h", 7_200_000),
        (" 3s ", 3000),
    ],
)
def test_durations(text: str, milliseconds: int):
    """A bare number is seconds; the units are ms, s, m and h."""
    assert duration(text) == timedelta(milliseconds=milliseconds)


@pytest.mark.parametrize(
    "text", ["", "s", "1 s", "-1", "1d", "1e3", "ten", "1.2.3", "∞", "nan", "٣"]
)
def test_what_is_no_duration(text: str):
    """Negative numbers, other units and other signs are refused."""
    with pytest.raises(ValueError, match="must be a duration"):
        duration(text)


def test_a_duration_has_an_end():
    """One that no clock could tell is refused, not an overflow."""
    with pytest.raises(ValueError, match="too long"):
        duration("9" * 400)


@given(st.text())
def test_no_text_breaks_a_value(text: str):
    """Each kind of value takes a text or refuses it with a `ValueError`, and nothing else."""
    for kind in (duration, count, index, addresses, resources):
        with contextlib.suppress(ValueError):
            kind(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "", "²", "9" * 5000])
def test_counts_are_whole_and_positive(text: str):
    """A count is at least 1, and in digits."""
    with pytest.raises(ValueError, match="at least 1"):
        count(text)


@pytest.mark.parametrize("text", ["", ";", "host", "host:", ":1", "host:0", "host:70000", "a:1;b"])
def test_addresses_have_host_and_port(text: str):
    """Each of them, and there is one at least."""
    with pytest.raises(ValueError, match="host:port"):
        addresses(text)


def test_addresses_are_divided_by_semicolons():
    """Spaces around them and an IPv6 host are fine."""
    assert addresses("a:1; [::1]:2;") == ["a:1", "[::1]:2"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("gpu=1", {"gpu": 1}),
        ("cpu=0.5, licence_a=3,", {"cpu": 0.5, "licence_a": 3}),
        ("memory=1.5GiB", {"memory": 1_610_612_736}),
        ("memory=100", {"memory": 100}),
        ("cpu=0", {"cpu": 0}),
    ],
)
def test_what_workers_offer(text: str, wanted: dict[str, float]):
    """Names and amounts; memory may have a unit."""
    assert parse_run_command(["flows", "--resources", text], {}).resources == wanted
    assert parse_run_command(["flows"], {"ENGINE_RESOURCES": text}).resources == wanted


@pytest.mark.parametrize(
    "text",
    [
        "cpu",
        "=1",
        "cpu=",
        "cpu=-1",
        "cpu=4GB",
        "memory=x",
        "a b=1",
        "cpu=1,cpu=2",
        ",",
        "cpu=" + "9" * 30,
    ],
)
def test_what_workers_can_not_offer(text: str):
    """It is refused as the command line is read."""
    with pytest.raises(UsageError, match="--resources"):
        parse_run_command(["flows", "--resources", text], {})


def test_what_is_left_out_has_a_default():
    """Epochs of 10 seconds, 5 seconds for a drain."""
    command = parse_run_command(["flows"], {})
    assert command.epoch_interval == timedelta(seconds=10)
    assert command.drain_timeout == timedelta(seconds=5)
    assert not command.verbose


def test_the_environment_gives_what_the_command_line_leaves_out():
    """Each option has a variable, and an empty variable is none."""
    environ = {
        "ENGINE_SNAPSHOT_INTERVAL": "250ms",
        "ENGINE_DRAIN_TIMEOUT": "1m",
        "ENGINE_WORKERS_PER_PROCESS": "",
        "ENGINE_PROCESSES": "1",
    }
    command = parse_run_command(["flows"], environ)
    assert command.epoch_interval == timedelta(milliseconds=250)
    assert command.drain_timeout == timedelta(minutes=1)


def test_the_command_line_wins():
    """Where both give a value."""
    command = parse_run_command(["flows", "-s", "0"], {"ENGINE_SNAPSHOT_INTERVAL": "7"})
    assert command.epoch_interval == timedelta(0)


def test_workers_are_in_processes_and_threads():
    """So many processes with so many workers each; one of one if nothing is said."""
    assert parse_run_command(["flows"], {}).layout == Layout(1, 1)
    command = parse_run_command(["flows", "-p", "3"], {"ENGINE_WORKERS_PER_PROCESS": "2"})
    assert command.layout == Layout(3, 2)
    assert command.layout.workers == 6


CLUSTER = ["-i", "0", "-a", "a:1;b:2"]
SECRET = {"ENGINE_CLUSTER_SECRET": "0123456789abcdef"}


def test_one_worker_at_one_address_is_no_cluster():
    """What other tools pass on for a single process is accepted."""
    parse_run_command(["flows", "-w", "1", "-p", "1", "-i", "0", "-a", "localhost:2101"], {})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-i", "1"], "-i 1: a process other than 0 needs the addresses of all (-a)"),
        (["-a", "a:1;b:2"], "-a a:1;b:2: which of these is this process? Say so with -i"),
        ([*CLUSTER, "-i", "2"], "-i 2: there are 2 addresses; the first is 0"),
        ([*CLUSTER, "-p", "2"], "-p 2: processes of a cluster (-a) are not spawned; give"),
        (CLUSTER, "a cluster needs a secret that all of its processes know and nobody else"),
        ([*CLUSTER, "--secret-file", "/no/file"], "--secret-file /no/file: No such file"),
        (["-b", "0"], "-b 0: older epochs are kept in a recovery store; give one (-r)"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(arguments: list[str], said: str):
    """In one line that names the option."""
    with pytest.raises(UsageError) as raised:
        parse_run_command(["flows", *arguments], {})
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


def test_a_bad_variable_is_named():
    """The message says which variable of the environment has what value."""
    with pytest.raises(UsageError, match="^ENGINE_SNAPSHOT_INTERVAL=soon: must be a duration"):
        parse_run_command(["flows"], {"ENGINE_SNAPSHOT_INTERVAL": "soon"})
    with pytest.raises(UsageError, match="^ENGINE_PROCESSES=none: must be"):
        parse_run_command(["flows"], {"ENGINE_PROCESSES": "none"})


def test_a_stateful_set_gives_number_and_addresses(tmp_path: Path):
    """From the pod's name and a file of hosts, as under Kubernetes."""
    hosts = tmp_path / "hosts"
    hosts.write_text("flow-0.flow:9999\nflow-1.flow:9999\n")
    pod = {"ENGINE_POD_NAME": "flow-1", "ENGINE_STATEFULSET_NAME": "flow"}
    command = parse_run_command(["flows"], {**pod, **SECRET, "ENGINE_HOSTFILE_PATH": str(hosts)})
    assert command.place is not None
    assert command.place.process == 1
    assert command.place.addresses == (("flow-0.flow", 9999), ("flow-1.flow", 9999))
    with pytest.raises(UsageError, match="^ENGINE_POD_NAME=flow-1: a process other than 0"):
        parse_run_command(["flows"], pod)
    parse_run_command(["flows", "-i", "0"], pod)


def test_a_cluster_has_a_secret_and_certificates(tmp_path: Path):
    """From a file that nobody else can read, or from the environment."""
    file = tmp_path / "secret"
    file.write_text("fedcba9876543210\n")
    file.chmod(0o600)
    arguments = ["flows", "-i", "1", "-a", "[::1]:1;localhost:2", "-w", "3"]
    place = parse_run_command([*arguments, "--secret-file", str(file)], SECRET).place
    assert place is not None
    assert place.addresses == (("::1", 1), ("localhost", 2))
    assert place.secret == b"fedcba9876543210"
    assert place.tls is None
    tls = ["--tls-cert", "c", "--tls-key", "k", "--tls-ca", "a"]
    place = parse_run_command([*arguments, *tls], SECRET).place
    assert place is not None
    assert place.secret == b"0123456789abcdef"
    assert place.tls == TlsFiles(Path("c"), Path("k"), Path("a"))
    with pytest.raises(UsageError, match="^--tls-cert c: TLS needs all of --tls-cert, --tls-key"):
        parse_run_command([*arguments, *tls[:2]], SECRET)
    with pytest.raises(UsageError, match="^ENGINE_CLUSTER_SECRET: the secret has 5 bytes; 16 is"):
        parse_run_command(arguments, {"ENGINE_CLUSTER_SECRET": "short"})
    file.chmod(0o640)
    with pytest.raises(UsageError, match="others can read it .its mode is 640.; make it 600"):
        parse_run_command([*arguments, "--secret-file", str(file)], {})


@pytest.mark.parametrize(
    "environ",
    [
        {"ENGINE_POD_NAME": "other", "ENGINE_STATEFULSET_NAME": "flow"},
        {"ENGINE_HOSTFILE_PATH": "/nowhere/hosts"},
    ],
)
def test_a_bad_pod_is_named(environ: dict[str, str]):
    """A pod of another set, or a missing file of hosts, is an error that says so."""
    with pytest.raises(UsageError, match="^ENGINE_(POD_NAME=other|HOSTFILE_PATH=/nowhere)"):
        parse_run_command(["flows"], environ)


@pytest.mark.parametrize("main", [run.main, visualize.main, top.main])
def test_version_and_help(main, project: Project):
    """Both go to standard output and exit 0."""
    version = project.call(main, "--version")
    assert (version.code, version.out) == (0, f"engine {engine.__version__}\n")
    help_text = project.call(main, "--help")
    assert help_text.code == 0
    assert "usage: python -m engine" in help_text.out
    assert help_text.err == version.err == ""


def test_the_help_of_all_names_the_modules(project: Project):
    """``python -m engine`` says what can be run."""
    outcome = project.call(top.main)
    assert outcome.code == 0
    assert "python -m engine.run" in outcome.out
    assert "python -m engine.visualize" in outcome.out


def test_the_help_tells_the_exit_codes(project: Project):
    """All of those that a run may have."""
    text = project.call(run.main, "--help").out
    for code in ("0", "1", "2", "130", "141", "143"):
        assert f"\n  {code:<5}" in text


@pytest.mark.parametrize("main", [run.main, visualize.main])
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "required: IMPORT_STR"),
        (["flows", "--verbos"], "unrecognized arguments: --verbos"),
        (["flows", "more"], "unrecognized arguments: more"),
        (["flows", "-w"], "expected one argument"),
        (["flows", "-w", "x", "--plan"], ""),
    ],
)
def test_a_wrong_command_line_exits_2(main, argv: list[str], said: str, project: Project):
    """With one message on standard error and nothing on standard output."""
    outcome = project.call(main, *argv)
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""


def test_an_option_is_not_shortened(project: Project):
    """A shortened option would change its meaning once a longer one comes."""
    assert project.call(run.main, "flows", "--drain", "1").code == 2


def test_the_document_has_every_option_variable_and_exit_code():
    """What the command line takes and how it exits is in docs/cli.md."""
    text = ROOT.joinpath("docs/cli.md").read_text(encoding="utf-8")
    for setting in SETTINGS:
        assert f"| `{setting.variable}` |" in text
        for flag in setting.flags:
            assert f"`{flag} " in text
    for code in Exit:
        assert f"\n| {code.value} | " in text
