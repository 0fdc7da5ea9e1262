"""Each example runs as its docstring says, and gives what it should."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from pathlib import Path

import pytest

from tests.examples.running import completed, run_flow
from tests.tidy.tree import python_files

EXAMPLES = [f for f in python_files("examples/") if not f.path.endswith("__init__.py")]
COMMAND = re.compile(r"^    python (-m (?:engine|examples)\..*)$", re.MULTILINE)


def commands() -> list[str]:
    """Every command that a docstring of an example gives; those of Kafka's are in `test_kafka`."""
    files = [file for file in EXAMPLES if not file.module.startswith("examples.kafka_")]
    return [command for file in files for command in COMMAND.findall(file.text)]


@pytest.mark.parametrize("command", commands())
def test_a_command_of_a_docstring_works(command: str, tmp_path: Path):
    """What the examples tell people to type can be typed, and says nothing of trouble."""
    tmp_path.joinpath("my.txt").write_text("To be or not to be\n")
    here = command.replace("/tmp/", "")
    done = completed(*shlex.split(here), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("info: ") for line in done.stderr.splitlines()), done.stderr


@pytest.mark.parametrize("file", [pytest.param(f, id=f.path) for f in EXAMPLES])
def test_each_example_says_how_to_run_it(file):
    """The docstring has a command that runs this very module."""
    assert any(file.module in command for command in COMMAND.findall(file.text))


def test_hello_greets():
    """The smallest flow maps three records."""
    assert run_flow("examples.hello") == ["Hello, Ada!", "Hello, Grace!", "Hello, Barbara!"]


def test_running_mean_prints_the_mean_of_all_readings_so_far():
    """Each line's mean is that of the sensor's readings up to this line."""
    seen: dict[str, list[float]] = {}
    lines = run_flow("examples.running_mean:means(readings=50, every_s=0)")
    for line in lines:
        sensor, reading, mean = re.fullmatch(r"(\w+): ([\d.]+), mean ([\d.]+)", line).groups()
        seen.setdefault(sensor, []).append(float(reading))
        assert float(mean) == pytest.approx(sum(seen[sensor]) / len(seen[sensor]), abs=0.0051)
    assert {sensor: len(values) for sensor, values in seen.items()} == {
        "attic": 50,
        "cellar": 50,
        "garden": 50,
    }


def test_csv_report_adds_up_each_product(tmp_path):
    """The totals are exact, and stand in the file in alphabetical order."""
    assert run_flow("examples.csv_report", cwd=tmp_path) == []
    assert tmp_path.joinpath("report.txt").read_text().splitlines() == [
        "coffee\t17.80",
        "honey\t18.60",
        "jam, plum\t9.30",
        "tea\t31.50",
    ]


def test_csv_report_complains_of_rows_that_it_cannot_use(tmp_path):
    """A row with a price that is no number is printed, and the others are summed."""
    tmp_path.joinpath("orders.csv").write_text("product,pieces,price\ntea,2,1.50\ntea,1,free\n")
    [line] = run_flow('examples.csv_report:report(orders="orders.csv")', cwd=tmp_path)
    assert "free" in line
    assert tmp_path.joinpath("report.txt").read_text() == "tea\t3.00\n"


def test_join_orders_tells_paid_from_unpaid_orders():
    """Every order comes once: with its payment as soon as both are known, or at the end."""
    lines = run_flow("examples.join_orders")
    assert sorted(lines) == [
        "order 1001 of ann: paid by card",
        "order 1002 of bob: paid by card",
        "order 1003 of ann: paid by card",
        "order 1004 of cid: not paid",
        "order 1005 of eve: paid by transfer",
        "order 1006 of bob: not paid",
        "order 1007 of ann: paid by voucher",
    ]
    assert [line.endswith("not paid") for line in lines] == [False] * 5 + [True] * 2


def test_accounts_transfer_what_they_have():
    """Bob has given nothing that he hadn't, which the run says too; no money is lost or made."""
    done = completed("-m", "engine.run", "examples.accounts")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert done.stderr.startswith(
        "info: step 'accounts.accounts': handlers of its actors have raised"
    )
    assert done.stdout.splitlines() == [
        "ann has 30, bob has 20",
        "bob refuses Transfer(to='cid', amount=30): ValueError: there is only 20",
        "ann has 0, cid has 30",
    ]


def test_device_twins_know_who_is_there_and_what_is_to_change():
    """Silent devices are offline, and hear of what is wanted when they are back."""
    lines = run_flow("examples.device_twins:flow")
    for device, expected in {
        "pump": ["pump is online", "pump: set speed to 80", "pump is offline"],
        "lamp": ["lamp is online", "lamp is offline", "lamp is online", "lamp: set light to 7"],
    }.items():
        assert [line for line in lines if line.startswith(device)] == expected


def test_a_game_lobby_brings_players_together():
    """Two of them play, a search without a partner ends, and who doesn't throw loses."""
    lines = run_flow("examples.game_lobby:flow")
    assert lines[:2] == ["bob beats ann", "games going on: 1"]
    assert set(lines[2:-2]) == {"eve has found nobody", "cid took too long", "games going on: 0"}
    assert lines[-2:] == ["cid and eve are equal", "games going on: 0"]


def test_custom_operator_drops_what_did_not_change():
    """Of each door only the changes are told."""
    assert run_flow("examples.custom_operator") == [
        "The front door is open.",
        "The back door is closed.",
        "The front door is closed.",
        "The back door is open.",
    ]


def test_own_connectors_log_readings(tmp_path):
    """Each reading is a line of JSON in the one worker's file, and a second run appends."""
    flow = "examples.own_connectors:log_readings(readings=3, every_s=0)"
    for runs in (1, 2):
        assert run_flow(flow, cwd=tmp_path) == []
        with gzip.open(tmp_path / "readings-0.jsonl.gz", "rt") as lines:
            rows = [json.loads(line) for line in lines]
        assert rows == runs * [
            {"reading": 1, "celsius": 20.5},
            {"reading": 2, "celsius": 20.99},
            {"reading": 3, "celsius": 21.48},
        ]


def test_late_orders_correct_a_minute_or_come_too_late():
    """Sums come when a minute is over, and again for each order that comes later."""
    assert run_flow("examples.late_orders:flow") == [
        "Oslo, minute 0: 30 (close)",
        "Rome, minute 0: 10 (close)",
        "Oslo, minute 0: 37 (late)",
        "Oslo, minute 1: 5 (close)",
        "Rome, minute 1: 3 (close)",
        "Oslo, minute 0: too late for 99",
        "Oslo, minute 3: 1 (close)",
        "Rome, minute 3: 2 (close)",
    ]


def test_text_on_processes_finds_the_extremes():
    """The paragraphs and their scores, whichever process had them."""
    assert sorted(run_flow("examples.text_on_processes:flow")) == [
        'easiest: "What can it be, Miss Woodhouse?--what can i... (97)',
        "hardest: Marianne, who had never much toleration for ... (-67)",
    ]


def test_fan_out_counts_the_words_of_each_book():
    """Each book comes to the sums of all its chapters, in the order of the books."""
    assert run_flow("examples.fan_out:flow") == [
        "Sense And Sensibility: marianne (566), dashwood (252), jennings (235)",
        "Pride And Prejudice: elizabeth (635), catherine (126), gardiner (97)",
        "Emma: knightley (389), woodhouse (315), churchill (224)",
    ]


def test_enrich_reviews_keeps_the_order_though_the_service_is_busy_at_times():
    """Every review has its mood, and none is given up."""
    assert run_flow("examples.enrich_reviews:flow") == [
        "good: A lovely hotel, and the breakfast was great",
        "bad: The room was cold",
        "good: Great view",
        "bad: Never again",
        "good: We love it",
        "bad: The soup was awful, the waiter was rude",
        "good: Nice and quiet",
    ]
