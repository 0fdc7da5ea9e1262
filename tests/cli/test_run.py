"""Runs that go well, and flows that are wrong: what they print and how they exit."""

from __future__ import annotations

import os

import pytest

from engine import run
from tests.cli.project import Outcome, Project


def failed(project: Project, *argv: str, code: int = 1) -> Outcome:
    """Run what must fail, with one block on standard error."""
    outcome = project.call(run.main, *argv)
    assert outcome.code == code, outcome.err
    assert outcome.err.startswith("error: ")
    assert "Traceback" not in outcome.err
    return outcome


# Runs that go well


def test_a_flow_runs_to_its_end(project: Project):
    """Its output is all there is on standard output, and nothing is on standard error."""
    project.write(
        "flows.py",
        """\
        flow = Dataflow("hello")
        s = op.input("in", flow, TestingSource(["hello", "world"]))
        op.output("out", s, StdOutSink())
        """,
    )
    assert project.call(run.main, "flows") == Outcome(0, "hello\nworld\n", "")
    assert project.call(run.main, "flows.py:flow") == Outcome(0, "hello\nworld\n", "")


@pytest.mark.parametrize(("interval", "epochs"), [("0", [1, 2, 3]), ("1h", [1, 1, 1])])
def test_an_interval_of_zero_makes_each_batch_an_epoch(
    interval: str, epochs: list[int], project: Project
):
    """Any other lets several share one."""
    project.write(
        "flows.py",
        """\
        flow = Dataflow("epochs")
        s = op.input("in", flow, TestingSource("abc"))
        op.inspect_debug("look", s, lambda _id, _item, epoch, _worker: print(epoch))
        """,
    )
    assert project.call(run.main, "flows", "-s", interval).out.split() == [str(e) for e in epochs]


def test_an_aborted_run_ends_in_silence(project: Project):
    """As a source that aborts asks for."""
    project.write(
        "flows.py",
        """\
        flow = Dataflow("aborted")
        s = op.input("in", flow, TestingSource([1, TestingSource.ABORT(), 2]))
        op.output("out", s, StdOutSink())
        """,
    )
    assert project.call(run.main, "flows") == Outcome(0, "1\n", "")


# Graphs that can't be built


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('op.map("in", s, str)', "ValueError: step id 'bad.in' already exists"),
        ('op.map("a.b", s, str)', "must not contain a dot"),
        ('op.map("", s, str)', "must not be empty"),
        ("op.map(1, s, str)", "TypeError: step id of operator `map` must be a `str`"),
        ('op.merge("m", s, other)', "two dataflows, 'bad' and 'other'"),
        ('op.map("m", [s], str)', "must be a `Stream`"),
        ('op.map("m", s, "str")', "must be a function"),
        ('op.map("m", s, wait)', "is an `async def`"),
        ('op.output("o", s, StdOutSink)', "make an object of it"),
        ('op.output("o", s, TestingSource([]))', "belongs in `op.input`"),
        ('op.input("i", flow, [1])', "must be a source"),
        ('Dataflow("a.b")', "must not contain a dot"),
        ('FileSource("f", batch_size=0)', "batch_size must be at least 1"),
    ],
)
def test_a_mistake_in_the_graph_is_shown_on_the_users_line(line: str, said: str, project: Project):
    """The block shows the line of the user's module, and none of the engine's."""
    project.write(
        "flows.py",
        f"""\
        async def wait(x):
            return x
        flow = Dataflow("bad")
        s = op.input("in", flow, TestingSource([1]))
        other = op.input("in", Dataflow("other"), TestingSource([1]))
        {line}
        """,
    )
    outcome = failed(project, "flows", code=2)
    assert outcome.err.startswith("error: the flow can't be built: ")
    assert said in outcome.err
    assert f"  at:     flows.py:13\n              {line}\n" in outcome.err
    assert "engine/" not in outcome.err
    assert outcome.out == ""


def test_a_mistake_in_an_operator_of_ones_own_shows_its_caller_too(project: Project):
    """Both lines are the user's."""
    project.write(
        "flows.py",
        """\
        @operator
        def twice(step_id, up):
            up = op.map("once", up, str)
            return op.map("once", up, str)

        flow = Dataflow("own")
        s = op.input("in", flow, TestingSource([1]))
        s = twice("twice", s)
        """,
    )
    outcome = failed(project, "flows", code=2)
    assert "step id 'own.twice.once' already exists" in outcome.err
    assert '  at:     flows.py:11, in twice\n              return op.map("once"' in outcome.err
    assert "  from:   flows.py:15\n" in outcome.err


def test_a_misspelt_operator_is_recognised(project: Project):
    """Names of modules are compared."""
    project.write("flows.py", "op.flat_mapp\n")
    assert "did you mean `flat_map`?" in failed(project, "flows", code=2).err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('flow = Dataflow("f")\n', "dataflow 'f' has no input; add one with `op.input`"),
        (
            'flow = Dataflow("f")\nop.input("in", flow, TestingSource([1]))\n',
            "dataflow 'f' has no output; add one with `op.output` or `op.inspect`",
        ),
    ],
)
def test_a_flow_without_ends(text: str, said: str, project: Project):
    """Is refused before it runs."""
    project.write("flows.py", text)
    assert failed(project, "flows", code=2).err == f"error: {said}\n"


# Functions that give back the wrong thing


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ('op.filter("bad", s, wrong(None))', "a predicate must return a `bool`"),
        ('op.branch("bad", s, wrong(1)).trues', "a predicate must return a `bool`"),
        ('op.key_on("bad", s, wrong(1.5))', "a key must be a `str`, `bytes`, `int` or a tuple"),
        ('op.stateful_map("bad", k, wrong(5))', "must be a 2-tuple; got 5 of type `int`"),
        ('op.stateful_flat_map("bad", k, wrong((None, 5)))', "must be an iterable; got 5"),
        ('op.flat_map("bad", s, wrong(5))', "must be an iterable; got 5 of type `int`"),
        ('op.flat_map_batch("bad", s, wrong(5))', "must be an iterable; got 5 of type `int`"),
        ('op.flatten("bad", s)', "each record must be an iterable; got 1 of type `int`"),
        ('op.map_value("bad", s, str)', "needs `(key, value)` 2-tuples from upstream; got 1"),
        ('op.stateful_map("bad", s, str)', "needs `(key, value)` 2-tuples from upstream; got 1"),
        ('op.stateful_batch("bad", k, wrong(Logic((i for i in []), True)))', "return a list"),
        ('op.stateful_batch("bad", k, wrong(Logic([], None)))', "must return a `bool`"),
        ('op.stateful_batch("bad", k, wrong(5))', "must return a `StatefulBatchLogic`; got 5"),
    ],
)
def test_a_function_that_gives_back_the_wrong_thing(step: str, said: str, project: Project):
    """The block names the step, what it got, what to do, and no frame of the engine."""
    project.write(
        "flows.py",
        f"""\
        def wrong(value):
            return lambda *_: value

        class Logic(op.StatefulBatchLogic):
            def __init__(self, *result):
                self.result = result
            def on_batch(self, values):
                return self.result
            def snapshot(self):
                return None

        flow = Dataflow("f")
        s = op.input("in", flow, TestingSource([1, 2]))
        k = op.key_on("key", s, str)
        bad = {step}
        op.output("out", bad, StdOutSink())
        """,
    )
    outcome = failed(project, "flows")
    assert outcome.err.startswith("error: step 'f.bad' failed: ")
    assert said in outcome.err
    assert "\n  hint:   " in outcome.err
    assert "engine/" not in outcome.err
    assert outcome.out == ""


def test_a_function_at_fault_is_shown(project: Project):
    """Though it has returned, and is in no frame any more."""
    project.write(
        "flows.py",
        """\
        def large(record):
            return record > 1 or None

        flow = Dataflow("f")
        s = op.input("in", flow, TestingSource([1]))
        s = op.filter("large", s, large)
        op.output("out", s, StdOutSink())
        """,
    )
    outcome = failed(project, "flows")
    assert "  at:     flows.py:8, in large\n              def large(record):\n" in outcome.err


# Sources and sinks that fail


SOURCE = """\
class Part(StatelessSourcePartition):
    def __init__(self, fails_at):
        self.fails_at, self.polls = fails_at, 0
    def next_batch(self):
        self.polls += 1
        if self.polls < 3:
            return [self.polls]
        if "read" in self.fails_at:
            raise OSError("no more to read")
        raise StopIteration
    def close(self):
        if "close" in self.fails_at:
            raise OSError("it won't close")

class Source(DynamicSource):
    def __init__(self, fails_at):
        self.fails_at = fails_at
    def build(self, step_id, worker_index, worker_count):
        if "build" in self.fails_at:
            raise OSError("it isn't there")
        return Part(self.fails_at)

def make(fails_at):
    flow = Dataflow("f")
    s = op.input("in", flow, Source(fails_at))
    op.output("out", s, StdOutSink())
    return flow
"""


def test_a_source_that_fails_at_its_build(project: Project):
    """The step and what it was doing are named."""
    project.write("flows.py", SOURCE)
    outcome = failed(project, "flows:make('build')")
    assert "step 'f.in' failed while opening its source: OSError: it isn't there" in outcome.err
    assert "at:     flows.py:27, in Source.build\n" in outcome.err


def test_a_source_that_fails_at_a_read(project: Project):
    """What it gave before is written."""
    project.write("flows.py", SOURCE)
    outcome = failed(project, "flows:make('read')")
    assert "step 'f.in' failed: OSError: no more to read" in outcome.err
    assert outcome.out == "1\n2\n"


def test_a_source_that_fails_at_its_close(project: Project):
    """The run has failed, though all is written."""
    project.write("flows.py", SOURCE)
    outcome = failed(project, "flows:make('close')")
    assert "step 'f.in' failed: OSError: it won't close" in outcome.err
    assert "while closing step 'f.in'" in outcome.err
    assert outcome.out == "1\n2\n"


def test_a_source_that_fails_twice(project: Project):
    """The first error is the headline, the second a note."""
    project.write("flows.py", SOURCE)
    outcome = failed(project, "flows:make('read close')")
    assert "error: step 'f.in' failed: OSError: no more to read\n" in outcome.err
    assert "note:   and then, while closing step 'f.in': OSError: it won't close" in outcome.err


FILES = """\
def make(path, to="out.txt"):
    flow = Dataflow("f")
    s = op.input("in", flow, FileSource(path, batch_size=1))
    s = op.key_on("key", s, lambda line: "all")
    op.output("out", s, FileSink(to))
    return flow
"""


def test_a_missing_file(project: Project):
    """Step, file and reason."""
    project.write("flows.py", FILES)
    outcome = failed(project, "flows:make('nowhere.txt')")
    assert "step 'f.in' failed while listing its partitions: FileNotFoundError" in outcome.err
    assert "'nowhere.txt'" in outcome.err


def test_a_folder_for_a_file(project: Project):
    """Step, file and reason."""
    project.write("flows.py", FILES)
    assert "IsADirectoryError" in failed(project, "flows:make('.')").err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(project: Project):
    """Step, file and reason."""
    project.write("flows.py", FILES)
    project.folder.joinpath("secret.txt").touch(mode=0)
    outcome = failed(project, "flows:make('secret.txt')")
    assert "PermissionError: [Errno 13] Permission denied: 'secret.txt'" in outcome.err


def test_a_text_that_is_not_utf8(project: Project):
    """File and byte are named; the lines before it are written."""
    project.write("flows.py", FILES)
    project.folder.joinpath("latin.txt").write_bytes(b"one\ntwo\ncaf\xe9\n")
    outcome = failed(project, "flows:make('latin.txt')")
    assert "latin.txt: not utf-8 text: byte 0xe9 at byte offset 11" in outcome.err
    assert project.folder.joinpath("out.txt").read_text() == "one\ntwo\n"


def test_a_sink_that_cannot_be_opened(project: Project):
    """Step, file and reason."""
    project.write("flows.py", FILES)
    project.folder.joinpath("in.txt").write_text("one\n")
    outcome = failed(project, "flows:make('in.txt', 'no/such/folder/out.txt')")
    assert "step 'f.out' failed" in outcome.err
    assert "FileNotFoundError" in outcome.err


# The rest


def test_a_function_that_exits(project: Project):
    """`sys.exit(0)` within a step is no successful end of the run."""
    project.write(
        "flows.py",
        """\
        flow = Dataflow("f")
        s = op.input("in", flow, TestingSource([1]))
        s = op.map("quit", s, lambda x: exit(0))
        op.output("out", s, StdOutSink())
        """,
    )
    outcome = failed(project, "flows")
    assert "step 'f.quit' failed: SystemExit: 0\n  record: 1\n" in outcome.err


def test_an_interrupt_of_the_users_own(project: Project):
    """Raised by the flow's code, it ends the run as Ctrl-C does."""
    project.write(
        "flows.py",
        """\
        def interrupt(x):
            raise KeyboardInterrupt

        flow = Dataflow("f")
        s = op.input("in", flow, TestingSource([1]))
        s = op.map("interrupt", s, interrupt)
        op.output("out", s, StdOutSink())
        """,
    )
    assert project.call(run.main, "flows") == Outcome(130, "", "KeyboardInterrupt\n")


def test_verbose_shows_all_frames(project: Project):
    """The traceback comes first, so that the block is what stands above the prompt."""
    project.write(
        "flows.py",
        """\
        flow = Dataflow("f")
        s = op.input("in", flow, TestingSource([0]))
        s = op.map("divide", s, lambda x: 1 / x)
        op.output("out", s, StdOutSink())
        """,
    )
    outcome = project.call(run.main, "flows", "--verbose")
    assert outcome.code == 1
    traceback, _, block = outcome.err.partition("\nerror: ")
    assert traceback.startswith("Traceback")
    assert "engine/runtime/" in traceback
    assert block.startswith("step 'f.divide' failed: ZeroDivisionError: division by zero\n")
    assert "--verbose" not in block
