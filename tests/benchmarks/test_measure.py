"""Measurements are taken in turn, wrong output is found out, and the table says what happened."""

from __future__ import annotations

import json

import pytest

from benchmarks import __main__ as command
from benchmarks.measure import Options, Result, RunError, measure
from benchmarks.report import problems, to_json, to_markdown, to_text
from benchmarks.workloads import Layout, Metric, Outcome


class FakeWorkload:
    """A workload of two bare contenders that nothing has to run."""

    name = "fake"
    title = "Fake work"
    metrics = (Metric("speed", "records/s", digits=1),)
    layout = Layout(("bare-udf", "bare"), (("bare", "bare-udf"),))
    contenders = ("bare-udf", "bare")
    records = 100
    records_quick = 10


class FakeRunner:
    """Notes the runs asked for and answers from a table of speeds, one for each run."""

    def __init__(self, speeds, *, digests=None, failing=()):
        self.asked = []
        self._speeds = {name: iter(values) for name, values in speeds.items()}
        self._digests = digests or {}
        self._failing = failing

    def __call__(self, _workload, contender, records, *, check):
        self.asked.append((contender, records, check))
        if contender in self._failing:
            msg = "failed: out of fuel"
            raise RunError(msg)
        if check:
            return Outcome({"speed": 0.0}, 7, self._digests.get(contender, 1))
        return Outcome({"speed": next(self._speeds[contender])}, 7)


def measured(runner, *, repetitions=3, quick=False):
    """The result of measuring the fake workload, and the options used."""
    options = Options(("bare-udf", "bare"), repetitions, quick)
    return measure(FakeWorkload(), options, progress=lambda _line: None, run=runner), options


def test_contenders_take_turns_within_each_round():
    """One checked round comes first; then each round runs every contender once."""
    runner = FakeRunner({"bare-udf": [1.0, 1.0], "bare": [1.0, 1.0]})
    measured(runner, repetitions=2)
    checked = [("bare-udf", 10, True), ("bare", 10, True)]
    timed = [("bare-udf", 100, False), ("bare", 100, False)]
    assert runner.asked == checked + timed + timed


def test_a_quick_run_takes_the_small_input():
    """With `quick` the timed rounds use the input of the checked one."""
    runner = FakeRunner({"bare-udf": [1.0], "bare": [1.0]})
    measured(runner, repetitions=1, quick=True)
    assert {records for _name, records, _check in runner.asked} == {10}


def test_a_ratio_is_taken_within_rounds_and_then_the_median():
    """A slow round for both contenders leaves the ratio alone."""
    runner = FakeRunner({"bare-udf": [10.0, 2.0, 10.0], "bare": [20.0, 4.0, 30.0]})
    result, _options = measured(runner)
    assert result.series["bare"].ratio_to(result.series["bare-udf"], "speed") == 2.0
    assert result.series["bare"].median("speed") == 20.0


def test_wrong_output_is_a_problem_and_is_not_timed():
    """A contender whose digest differs from the reference's gets no figure."""
    runner = FakeRunner({"bare-udf": [5.0, 5.0, 5.0]}, digests={"bare": 2})
    result, options = measured(runner)
    assert problems([result]) == [
        "fake, bare: wrong output: other records than the reference's",
    ]
    assert "wrong output" in to_text([result])
    assert json.loads(to_json([result], options))["results"][0]["contenders"]["bare"] == {
        "problem": "wrong output: other records than the reference's",
        "medians": {},
        "samples": [],
    }


def test_a_failing_contender_leaves_the_others_alone():
    """The reason of the failure is kept, and the rest of the table is there."""
    runner = FakeRunner({"bare-udf": [5.0, 6.0, 7.0]}, failing=("bare",))
    result, _options = measured(runner)
    assert problems([result]) == ["fake, bare: failed: out of fuel"]
    assert "6.0" in to_text([result])


def test_the_markdown_table_has_a_rule_and_equal_columns():
    """Each line of the table has as many cells as its header."""
    runner = FakeRunner({"bare-udf": [5.0, 5.0, 5.0], "bare": [9.0, 9.0, 9.0]})
    result, options = measured(runner)
    lines = to_markdown([result], options).split("\n\n")[1].splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert set(lines[1]) <= set("|- :")
    assert "Fake work" in lines[2]


def test_workloads_with_other_columns_have_a_table_of_their_own():
    """Each table has the columns and ratios of its workloads' layout."""
    runner = FakeRunner({"bare-udf": [5.0] * 4, "bare": [10.0] * 4})
    result, _options = measured(runner)
    other = FakeWorkload()
    other.layout = Layout(("bare",), ())
    first, second = to_text([result, result, Result(other, result.series)]).split("\n\n")
    assert first.splitlines()[0].split()[2:6] == ["bare-udf", "bare", "bare", "/"]
    assert len(first.splitlines()) == 3
    assert second.split()[:3] == ["work", "figure", "bare"]
    assert "bare-udf" not in second


def test_an_engine_stands_for_its_variants_too():
    """Whoever asks for the engine gets it at all of its epoch intervals."""
    workload = FakeWorkload()
    workload.contenders = ("bare-udf", "engine", "engine-1s", "bytewax-1s")
    runner = FakeRunner({name: [1.0] for name in workload.contenders})
    options = Options(("bare-udf", "engine"), 1, quick=False)
    result = measure(workload, options, progress=lambda _line: None, run=runner)
    assert list(result.series) == ["bare-udf", "engine", "engine-1s"]


@pytest.mark.parametrize("arguments", [["w99"], ["--contenders", "abacus"], ["--repetitions", "0"]])
def test_wrong_arguments_end_with_exit_code_2(arguments, capsys):
    """A misspelt workload or contender, or no repetition, is refused before anything runs."""
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m benchmarks" in capsys.readouterr().err
