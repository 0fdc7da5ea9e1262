"""The recovery workloads measure what they say: whole epochs, found states, rows on the disk."""

from __future__ import annotations

import pickle

import pytest

from benchmarks.workloads import barrier, larger_than_memory, recovery_cost, resume

KEYS = 2 * barrier.BATCH_SIZE


@pytest.fixture
def rows(tmp_path):
    """Where the barrier workload writes rows plainly."""
    opened = barrier.Rows(str(tmp_path))
    yield opened
    opened.close()


def polled(given, times):
    """Poll an input some times, as an engine does."""
    return [len(given.next_batch()) for _ in range(times)]


def test_plain_rows_are_columns_of_some_hundred_keys_and_values(rows, tmp_path):
    """What is written can be read back, column by column."""
    wanted = {f"key{number}": (number, 0.5) for number in range(300)}
    rows.write(wanted)
    found, columns = {}, []
    with (tmp_path / "rows").open("rb") as file:
        for _ in range(2):
            keys, values = pickle.load(file), pickle.load(file)
            columns.append(len(keys))
            found.update(zip(keys, values, strict=True))
        assert file.read() == b""
    assert found == wanted
    assert columns == [barrier.COLUMN_ROWS, 300 - barrier.COLUMN_ROWS]


def test_a_stall_is_noted_for_each_epoch_in_which_all_keys_have_changed(rows):
    """An epoch that comes before all keys have is passed over."""
    given = barrier.Input(KEYS, 3, rows, 1)
    polled(given, 1)
    given.on_commit(None)
    polled(given, 2)
    assert given.stalls_s == []
    given.on_commit(None)
    polled(given, 1)
    assert len(given.stalls_s) == len(given.writes_s) == 1


def test_an_input_that_is_over_waits_for_its_first_epoch(rows):
    """It gives empty batches until there is one."""
    given = barrier.Input(KEYS, 1, rows, 1)
    assert polled(given, 4) == [barrier.BATCH_SIZE, barrier.BATCH_SIZE, 0, 0]
    given.on_commit(None)
    with pytest.raises(StopIteration):
        given.next_batch()
    assert len(given.stalls_s) == 1


def test_an_input_does_not_wait_for_an_epoch_that_will_not_come(rows):
    """When its keys fell into two epochs, none has them all."""
    given = barrier.Input(KEYS, 1, rows, 1)
    polled(given, 1)
    given.on_commit(None)
    polled(given, 2)
    for _ in range(2):
        given.on_commit(None)
        try:
            polled(given, 1)
        except StopIteration:
            break
    else:
        pytest.fail("it is still waiting")
    assert given.stalls_s == []


def test_a_resumption_without_its_states_is_an_error():
    """A count that goes on from elsewhere is no outcome."""
    told = {"run_s": 1.0, "out_s": 2.0, "counts": [2, 2, 1]}
    with pytest.raises(RuntimeError, match="counted 1 to 2 times, not 2 times"):
        resume._outcome(0.5, told, 2, check=True)


def test_the_bound_of_the_larger_state_is_a_tenth_of_it():
    """The title says the bound of the full measurement: about 44 MB."""
    (workload,) = larger_than_memory.WORKLOADS
    keys = workload.records // larger_than_memory.RECORDS_PER_KEY
    bound = larger_than_memory.state_bytes(keys) // larger_than_memory.BOUND_SHARE
    assert f"{bound / 1e6:.0f} MB" in workload.title


def test_a_state_that_was_lost_would_be_seen_in_the_output(monkeypatch):
    """The check of the larger state tells a loop that remembers from one that doesn't."""
    (workload,) = larger_than_memory.WORKLOADS
    sound = workload.run("bare-udf", 300, check=True)

    def forgetful(_state, value):
        return (1, value), value

    monkeypatch.setattr(larger_than_memory.running_mean, "running_mean", forgetful)
    assert workload.run("bare-udf", 300, check=True).digest != sound.digest


@pytest.mark.parametrize("workload", recovery_cost.WORKLOADS, ids=lambda workload: workload.name)
def test_a_long_input_goes_through_its_records_again(workload, monkeypatch):
    """As many come out as were asked for."""
    monkeypatch.setattr(recovery_cost, "DISTINCT_RECORDS", 1000)
    assert workload.run("bare-udf", 5000, check=False).records == 5000
