"""The table of a step's tasks by itself: what it submits, gives up, tries again and emits."""

from __future__ import annotations

import functools
import math
import pickle
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.operators.tasks import Batching, Exponential, Rate, Resources, Retry
from engine.operators.tasks._policies import TaskRules
from engine.recovery._running_calls import CallRows, Suspect, mark_of
from engine.runtime._call_watch import CallWatch
from engine.runtime._ledger import Ledger
from engine.runtime._task_table import State, Task, TaskTable

SECOND = timedelta(seconds=1)
NO_JITTER = Exponential(SECOND, jitter=0)


def began(_call: int) -> float:
    """All calls began when they were submitted, or before."""
    return -math.inf


def table_of(**rules: Any) -> TaskTable:
    """A table with some rules."""
    return TaskTable(TaskRules(**rules), "0", lambda: 0.5)


def begun(table: TaskTable, now_s: float = 0.0) -> dict[Any, int]:
    """What the table submits now: the call of each record, or of each list by its first one."""
    return {task.records[0]: call for call, task in table.next_calls(now_s)}


def emitted(table: TaskTable) -> list[Any]:
    """What the table emits now."""
    return [task.result for task in table.take_over()]


def test_no_more_in_flight_than_the_limit():
    """What was emitted makes room; what has ended and waits for its turn does not."""
    table = table_of(max_in_flight=2)
    table.admit([1, 2, 3], 0.0)
    calls = begun(table)
    assert list(calls) == [1, 2]
    assert table.waiting == 1
    table.returned(calls[2], "b", 0.0)
    assert begun(table) == {}
    table.returned(calls[1], "a", 0.0)
    assert emitted(table) == ["a", "b"]
    assert list(begun(table)) == [3]
    assert table.waiting == 0


@pytest.mark.parametrize(
    ("order", "wanted"),
    [("none", [[3], [2], [1]]), ("input", [[], [], [1, 2, 3]]), ("key", [[], [2], [1, 3]])],
)
def test_results_come_in_the_order_that_was_promised(order: Any, wanted: list[list[int]]):
    """As they end, as their records came, or so for each key."""
    table = table_of(order=order)
    table.admit([("a", 1), ("b", 2), ("a", 3)], 0.0)
    calls = begun(table)
    came = []
    for record in (("a", 3), ("b", 2), ("a", 1)):
        table.returned(calls[record], record[1], 0.0)
        came.append(emitted(table))
    assert came == wanted


def test_an_error_takes_its_place_in_the_order():
    """What comes after it waits for it."""
    table = table_of()
    table.admit([1, 2], 0.0)
    calls = begun(table)
    error = ValueError(1)
    table.returned(calls[2], 2, 0.0)
    table.raised(calls[1], error, 0.0)
    assert emitted(table) == [error, 2]


def test_tries_are_counted_and_waited_for():
    """One second, two, four: then it has failed."""
    table = table_of(retry=Retry(attempts=3, backoff=NO_JITTER))
    table.admit(["x"], 0.0)
    now_s = 0.0
    for wait_s in (1.0, 2.0):
        table.raised(begun(table, now_s)["x"], ValueError(), now_s)
        assert table.next_due_s() == now_s + wait_s
        assert begun(table, now_s + wait_s - 0.001) == {}
        now_s += wait_s
    table.raised(begun(table, now_s)["x"], ValueError("last"), now_s)
    (task,) = table.take_over()
    assert (task.state, task.tries, str(task.result)) == (State.FAILED, 3, "last")
    assert len(table) == 0


def test_only_some_errors_are_tried_again():
    """Others are final at once."""
    table = table_of(retry=Retry(attempts=3, on=(OSError,)))
    table.admit(["x"], 0.0)
    table.raised(begun(table)["x"], ValueError(), 0.0)
    assert [task.tries for task in table.take_over()] == [1]


def test_a_try_that_takes_too_long_is_given_up():
    """What comes of it later isn't looked at, whatever it is."""
    table = table_of(timeout_s=5.0, retry=Retry(attempts=2, backoff=NO_JITTER))
    table.admit(["x"], 0.0)
    first = begun(table)["x"]
    assert table.next_due_s() == 5.0
    assert table.timed_out(4.9, began) == []
    assert table.timed_out(5.0, began) == [first]
    table.returned(first, "late", 0.0)
    table.raised(first, ValueError("late"), 5.5)
    table.died(first, ValueError("late"), 5.5)
    second = begun(table, 6.0)["x"]
    assert table.timed_out(11.0, began) == [second]
    (error,) = emitted(table)
    assert isinstance(error, TimeoutError)


def test_the_wait_for_a_place_does_not_count():
    """The time of a try begins when its call does."""
    table = table_of(timeout_s=5.0)
    table.admit(["x"], 0.0)
    call = begun(table)["x"]
    assert table.timed_out(5.0, lambda _: None) == []
    assert table.next_due_s() == 10.0
    assert table.timed_out(10.0, lambda _: 7.0) == []
    assert table.next_due_s() == 12.0
    assert table.timed_out(12.0, lambda _: 7.0) == [call]


def test_deaths_have_a_budget_of_their_own():
    """They don't use up tries, and the third is the last."""
    table = table_of(retry=Retry(attempts=2, backoff=NO_JITTER, deaths=3))
    table.admit(["x"], 0.0)
    now_s = 0.0
    for _ in range(2):
        table.died(begun(table, now_s)["x"], RuntimeError("dead"), now_s)
        now_s += 10.0
    table.raised(begun(table, now_s)["x"], ValueError(), now_s)
    now_s += 10.0
    table.died(begun(table, now_s)["x"], RuntimeError("dead"), now_s)
    (task,) = table.take_over()
    assert (str(task.result), task.deaths) == ("dead", 3)


def test_lists_are_full_or_have_waited():
    """The first by its size, the second by its time, the third by the end of input."""
    table = table_of(batch=Batching(2, linger=SECOND))
    table.admit([1, 2, 3], 10.0)
    assert [task.records for _, task in table.next_calls(10.0)] == [[1, 2]]
    assert table.next_due_s() == 11.0
    assert [task.records for _, task in table.next_calls(11.0)] == [[3]]
    table.admit([4], 12.0)
    table.end_input()
    assert [task.records for _, task in table.next_calls(12.0)] == [[4]]


@pytest.mark.parametrize("result", [[1], [1, 2, 3], (1, 2), None])
def test_a_list_must_have_as_many_results(result: Any):
    """Or nobody knows which belongs to which record."""
    table = table_of(batch=Batching(2))
    table.admit([1, 2], 0.0)
    table.returned(begun(table)[1], result, 0.0)
    (error,) = emitted(table)
    assert "as many results" in str(error)
    assert "for 2 records" in str(error)


def test_a_rate_is_kept():
    """A tenth of a second's share at once, then one each hundredth."""
    table = table_of(rate=Rate(100, per=SECOND), max_in_flight=1000)
    table.admit(list(range(30)), 0.0)
    assert len(begun(table, 0.0)) == 10
    assert begun(table, 0.005) == {}
    assert table.next_due_s() == pytest.approx(0.01)
    assert len(begun(table, 0.055)) == 5
    assert len(begun(table, 10.0)) == 10


def test_tasks_may_wait_for_their_epoch():
    """Those of the open epoch aren't submitted before it is durable."""
    table = table_of(after_commit=True)
    table.admit([1], 0.0)
    table.epoch = 2
    table.admit([2], 0.0)
    assert begun(table) == {}
    assert table.next_due_s() == math.inf
    table.committed(1)
    assert list(begun(table)) == [1]
    table.committed(2)
    assert list(begun(table)) == [2]


def _steps() -> st.SearchStrategy[list[tuple[str, int]]]:
    kinds = st.sampled_from(["admit", "begin", "return", "raise", "die", "pass", "emit"])
    return st.lists(st.tuples(kinds, st.integers(0, 5)), max_size=60)


def saved(*states: State, key: Any = None) -> list[Task]:
    """Tasks of an earlier run, whose results are their numbers."""
    tasks = [Task(number, f"0-{number}", 1) for number in range(len(states))]
    for task, state in zip(tasks, states, strict=True):
        task.records, task.state, task.result = [(key, task.number)], state, task.number
    return tasks


def test_a_list_that_may_have_been_called_gets_no_more_records():
    """Its id would be the key of other records: a service would do nothing for the new ones."""
    table = table_of(batch=Batching(9, timedelta(hours=1)), after_commit=True)
    table.durable = 1
    table.epoch = 2
    table.restore(saved(State.GATHERING), 0.0)
    table.admit([(None, 1)], 0.0)
    assert [task.records for _, task in table.next_calls(0.0)] == [[(None, 0)]]


@pytest.mark.parametrize("order", ["none", "input", "key"])
def test_results_that_had_not_come_out_yet_come_out_in_the_next_run(order: Any):
    """All of them, though no task is left that could end."""
    table = table_of(order=order)
    table.restore(saved(State.DONE, State.DONE, key="k"), 0.0)
    assert emitted(table) == [0, 1]
    assert len(table) == 0


def test_results_of_several_workers_do_not_keep_the_task_that_they_wait_for_from_beginning():
    """A run of one worker may find more of them than it may have in flight."""
    table = table_of(max_in_flight=2)
    table.restore(saved(State.RUNNING, *[State.DONE] * 5), 0.0)
    table.admit([(None, 6), (None, 7)], 0.0)
    calls = list(table.next_calls(0.0))
    assert [task.records[0][1] for _, task in calls] == [0, 6]
    table.returned(calls[0][0], 0, 0.0)
    assert emitted(table) == list(range(6))
    # What has come out makes room for one, and only that which counted.
    assert list(begun(table)) == [(None, 7)]
    table.admit([(None, 8)], 0.0)
    assert begun(table) == {}


def test_a_list_that_others_come_behind_does_not_gather_any_more():
    """It was the last one of its worker; here it would hold back what was another's."""
    table = table_of(batch=Batching(9, timedelta(hours=1)))
    table.restore(saved(State.GATHERING, State.DONE), 0.0)
    assert [task.records for _, task in table.next_calls(0.0)] == [[(None, 0)]]


@given(
    _steps(),
    st.sampled_from(["input", "key", "none"]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([math.inf, 2.0]),
)
def test_each_record_comes_out_once(
    steps: list[tuple[str, int]], order: Any, limit: int, attempts: int, timeout_s: float
):
    """Whatever happens in whatever order, and never more of them in flight than may be."""
    retry = Retry(attempts=attempts, backoff=NO_JITTER, deaths=2)
    table = table_of(max_in_flight=limit, order=order, timeout_s=timeout_s, retry=retry)
    run = _Run(table)
    for kind, number in steps:
        run.do(kind, number)
        assert len(run.running) <= limit
    run.finish()
    assert sorted(run.out) == list(range(run.admitted))
    if order == "input":
        assert run.out == sorted(run.out)
    if order == "key":
        for key in range(3):
            mine = [record for record in run.out if record % 3 == key]
            assert mine == sorted(mine)
    assert len(table) == 0


class _Run:
    """Drives a table; records are `(key, number)`."""

    def __init__(self, table: TaskTable) -> None:
        self.table = table
        self.admitted = 0
        self.out: list[int] = []
        self.running: dict[int, Task] = {}
        self.now_s = 0.0

    def do(self, kind: str, number: int) -> None:
        table, now_s = self.table, self.now_s
        if kind == "admit":
            numbers = range(self.admitted, self.admitted + number)
            table.admit([(n % 3, n) for n in numbers], now_s)
            self.admitted += number
        elif kind == "begin":
            self.running.update(table.next_calls(now_s))
        elif kind == "pass":
            self.now_s += number
            for call in table.timed_out(self.now_s, began):
                del self.running[call]
        elif kind == "emit":
            self.out += [task.records[0][1] for task in table.take_over()]
        elif self.running:
            call = list(self.running)[number % len(self.running)]
            del self.running[call]
            if kind == "return":
                table.returned(call, "result", 0.0)
            elif kind == "raise":
                table.raised(call, ValueError(), now_s)
            else:
                table.died(call, RuntimeError(), now_s)

    def finish(self) -> None:
        for kind, number in self._ending():
            self.do(kind, number)

    def _ending(self) -> Iterator[tuple[str, int]]:
        while len(self.table):
            yield "begin", 0
            yield "return", 0
            yield "emit", 0
            yield "pass", 1


class Rows:
    """Takes down which calls are being made."""

    def __init__(self) -> None:
        self.now: dict[int, tuple[list[int], bool]] = {}

    def begin(self, marks: Iterable[int], _deaths: int, *, alone: bool) -> list[int]:
        """As in `CallRows`; a row for each call."""
        row = len(self.now)
        self.now[row] = list(marks), alone
        return [row]

    def end(self, rows: list[int]) -> None:
        """As in `CallRows`."""
        for row in rows:
            del self.now[row]


def watched(known: dict[Any, Suspect], **rules: Any) -> tuple[TaskTable, Rows]:
    """A table that knows of some records that a process died with them, and what it takes down."""
    rows = Rows()
    suspects = {mark_of(pickle.dumps(record, 5)): s for record, s in known.items()}
    watch = CallWatch(cast("CallRows", rows), suspects, 3)
    encode = functools.partial(pickle.dumps, protocol=5)
    return TaskTable(TaskRules(**rules), "0", lambda: 0.5, encode=encode, watch=watch), rows


def test_calls_are_taken_down_while_they_are_made():
    """What has ended, or was given up, is wiped."""
    table, rows = watched({}, timeout_s=5.0)
    table.admit([1, 2, 3], 0.0)
    calls = begun(table)
    assert len(rows.now) == 3
    table.returned(calls[1], 1, 1.0)
    table.raised(calls[2], ValueError(), 1.0)
    assert len(rows.now) == 1
    table.timed_out(9.0, began)
    assert rows.now == {}


def test_a_record_of_one_death_runs_beside_others():
    """Whatever killed the process, most calls had nothing to do with it."""
    table, _ = watched({2: Suspect(1, alone=False)})
    table.admit([1, 2, 3], 0.0)
    assert list(begun(table)) == [1, 2, 3]


def test_a_record_of_more_deaths_runs_alone():
    """It waits for what runs, and what comes after it waits for it, without a busy loop."""
    table, rows = watched({2: Suspect(2, alone=False)})
    table.admit([1, 2, 3], 0.0)
    calls = begun(table)
    assert list(calls) == [1]
    assert table.next_due_s() == math.inf
    table.returned(calls[1], 1, 0.0)
    calls = begun(table)
    assert list(calls) == [2]
    assert [alone for _, alone in rows.now.values()] == [True]
    assert begun(table) == {}
    assert table.next_due_s() == math.inf
    table.returned(calls[2], 2, 0.0)
    assert list(begun(table)) == [3]


def test_a_record_that_was_alone_at_the_last_death_has_failed():
    """It is called no more, and takes its place in the order."""
    table, _ = watched({2: Suspect(3, alone=True)})
    table.admit([1, 2, 3], 0.0)
    calls = begun(table)
    assert list(calls) == [1, 3]
    table.returned(calls[1], 1, 0.0)
    first, second = table.take_over()
    assert (first.result, second.state, second.tries) == (1, State.FAILED, 3)
    assert "died 3 times" in str(second.result)


def test_who_was_not_alone_has_not_failed():
    """However many deaths there were: it is given a chance alone."""
    table, _ = watched({2: Suspect(9, alone=False)})
    table.admit([2], 0.0)
    assert list(begun(table)) == [2]


def test_a_suspect_whose_call_ends_is_none_any_more():
    """A record like it runs beside others."""
    table, _ = watched({2: Suspect(2, alone=False)})
    table.admit([2], 0.0)
    table.returned(begun(table)[2], 2, 0.0)
    table.admit([2, 3], 0.0)
    assert list(begun(table)) == [2, 3]


def test_deaths_of_the_worker_give_no_tries():
    """The tries that they have cut short don't count, so a record has as many as it ever has."""
    table, _ = watched({2: Suspect(1, alone=False)}, retry=Retry(2, NO_JITTER))
    table.admit([2], 0.0)
    table.raised(begun(table)[2], ValueError(), 0.0)
    table.raised(begun(table, 9.0)[2], ValueError(), 9.0)
    assert [(task.state, task.tries) for task in table.take_over()] == [(State.FAILED, 2)]


def test_saved_tasks_are_suspects_too():
    """One that was in flight at the last epoch, and at the deaths since, fails or runs alone."""
    table, _ = watched({2: Suspect(3, alone=True), 3: Suspect(2, alone=False)})
    tasks = []
    for number in (1, 2, 3):
        task = Task(number, f"0-{number}", 1)
        task.records, task.encoded = [number], [pickle.dumps(number, 5)]
        tasks.append(task)
    table.restore(tasks, 0.0)
    calls = begun(table)
    assert list(calls) == [1]
    table.returned(calls[1], 1, 0.0)
    assert [task.state for task in table.take_over()] == [State.DONE, State.FAILED]
    assert list(begun(table)) == [3]


def test_lists_are_suspect_with_any_of_their_records():
    """Lists may be made of other records after a death."""
    table, _ = watched({2: Suspect(2, alone=False)}, batch=Batching(size=2))
    table.admit([1, 2, 3, 4], 0.0)
    assert list(begun(table)) == [1]
    assert begun(table) == {}


def table_with(ledger: Ledger, **rules: Any) -> TaskTable:
    """A table whose tries take from a ledger."""
    return TaskTable(TaskRules(**rules), "0", lambda: 0.5, account=ledger.account())


def test_tries_begin_as_there_is_room_for_them():
    """What a try has taken it gives back when it ends, however it ends."""
    ledger, one = Ledger(Resources(cpu=2)), Resources(cpu=1)
    table = table_with(ledger, resources=one, retry=Retry(2, NO_JITTER), timeout_s=9.0)
    table.admit(["a", "b", "c", "d"], 0.0)
    calls = begun(table)
    assert list(calls) == ["a", "b"]
    assert table.next_due_s() == 9.0, "there is nothing to do until something ends"
    table.raised(calls["a"], ValueError(), 0.0)
    assert table.next_due_s() == -math.inf
    assert list(begun(table)) == ["c"]
    table.died(calls["b"], ValueError(), 0.0)
    assert list(begun(table)) == ["d"]
    assert table.timed_out(9.0, began)
    assert ledger.taken() == {"cpu": 0}
    assert list(begun(table, 20.0)) == ["a", "b"], "and so do second tries"


def test_tables_of_one_worker_take_turns():
    """A table with many small tasks doesn't keep another from what it needs."""
    ledger = Ledger(Resources(cpu=2))
    small = table_with(ledger, resources=Resources(cpu=1))
    large = table_with(ledger, resources=Resources(cpu=2))
    small.admit(list(range(9)), 0.0)
    large.admit(["large"], 0.0)
    calls = begun(small)
    assert begun(large) == {}
    small.returned(calls[0], None, 0.0)
    calls.update(begun(small))
    assert 2 in calls, "it has waited longer for one more"
    for record in (1, 2):
        small.returned(calls[record], None, 0.0)
        assert begun(small) == {}
    assert small.next_due_s() == math.inf
    assert large.next_due_s() == -math.inf
    assert list(begun(large)) == ["large"]


def test_the_rate_is_not_spent_on_what_finds_no_room():
    """A try that waits for resources begins as soon as they are there."""
    ledger, one = Ledger(Resources(cpu=1)), Resources(cpu=1)
    table = table_with(ledger, resources=one, rate=Rate(1, per=SECOND))
    table.admit(["a", "b"], 0.0)
    calls = begun(table, 0.0)
    for now_s in (1.0, 2.0, 3.0):
        assert begun(table, now_s) == {}
    table.returned(calls["a"], None, 3.0)
    assert list(begun(table, 3.0)) == ["b"]


def test_what_is_known_to_have_failed_takes_no_room():
    """Or the task that it comes behind could never begin."""
    table, _ = watched({2: Suspect(3, alone=True)}, max_in_flight=1)
    table.admit([1, 2], 0.0)
    calls = begun(table)
    assert list(calls) == [1]
    table.returned(calls[1], "one", 0.0)
    assert len(table.take_over()) == 2
    table.admit([3, 4], 0.0)
    assert list(begun(table)) == [3]
