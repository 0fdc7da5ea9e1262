"""The word count is right: against a count of our own, and against figures found by other tools."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from examples.wordcount import NOVELS
from tests.examples.running import run_flow


@pytest.fixture(scope="module")
def counted() -> list[tuple[str, int]]:
    """Every word and its count, in the order in which the example prints them."""
    lines = run_flow("examples.wordcount:ranking(most=1_000_000)")
    return [(word, int(times)) for times, word in (line.split() for line in lines)]


def test_every_word_of_the_text_is_counted(counted):
    """All 10,316 counts are those of a plain loop over the text."""
    expected = Counter(re.findall("[a-z]+", NOVELS.read_text(encoding="utf-8").lower()))
    assert len(counted) == len(expected)
    assert dict(counted) == expected


def test_the_counts_are_those_that_other_tools_found(counted):
    """The figures in the data's README, found with `tr`, `sort` and `uniq`, hold."""
    figures = NOVELS.with_name("README.md").read_text(encoding="utf-8")
    row = next(line for line in figures.splitlines() if line.startswith("| a run of the letters"))
    words, distinct, *_ = [int(n.replace(",", "")) for n in re.findall(r"\| ([\d,]+) ", row)]
    ten = re.findall(r"([a-z]+) ([\d,]+)", row.rpartition("|")[0].rpartition("|")[2])
    assert sum(times for _, times in counted) == words
    assert len(counted) == distinct
    assert counted[:10] == [(word, int(times.replace(",", ""))) for word, times in ten]
    for word, times in re.findall(r"`(\w+)` (?:comes )?(\d+) times", figures):
        assert dict(counted)[word] == int(times)


def test_the_flow_prints_the_twenty_most_frequent(counted):
    """Run as the README runs it, the example shows the top of the ranking."""
    lines = run_flow("examples.wordcount:flow")
    assert lines == [f"{times:7} {word}" for word, times in counted[:20]]
