"""What workers offer to tasks, and that a flow that would need more isn't started."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import engine.operators as op
from engine.dataflow import Dataflow
from engine.errors import FlowError
from engine.operators.tasks import Label, Resources, task
from engine.runtime import check_demands, plan
from engine.runtime._machine import Machine, machine_of, this_machine
from engine.runtime._offers import check_offer, offer_of
from engine.testing import TestingSink, TestingSource, cluster_main, run_main

GB = 10**9


def flow_with(**options: Any) -> tuple[Dataflow, list[int]]:
    """A flow with a step `double`."""
    flow, out = Dataflow("flow"), list[int]()
    s = op.input("in", flow, TestingSource([1, 2, 3]))
    doubled = task("double", s, lambda n: 2 * n, **options)
    op.output("out", doubled.ok, TestingSink(out))
    return flow, out


def test_workers_share_a_machine():
    """What isn't said is an equal share of it."""
    machine = Machine(4.0, 8 * GB)
    assert offer_of(machine, 2, None) == Resources(cpu=2, memory=4 * GB)
    assert offer_of(machine, 8, {"gpu": 1}) == Resources(cpu=0.5, gpu=1, memory=GB)
    assert offer_of(machine, 1, {"cpu": 0, "memory": 5}) == Resources(memory=5)


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, Machine(4.0, 16 * GB)),
        ({"cpu.max": "150000 100000", "memory.max": "max"}, Machine(1.5, 16 * GB)),
        ({"cpu.max": "max 100000", "memory.max": f"{GB}"}, Machine(4.0, GB)),
        ({"a/b/cpu.max": "50000 100000", "a/memory.max": f"{2 * GB}"}, Machine(0.5, 2 * GB)),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, (2, 16 * GB)),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, (4, 16 * GB)),
        ({"memory/memory.limit_in_bytes": f"{GB}\n"}, Machine(4.0, GB)),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, Machine(4.0, 16 * GB)),
    ],
)
def test_limits_of_containers_count(files: dict[str, str], wanted: Machine):
    """Of the group of the process, and of all that this is part of, the lowest."""
    system = {f"/sys/fs/cgroup/{name}": text for name, text in files.items()}
    system["/proc/self/cgroup"] = "0::/a/b\n"
    system["/proc/meminfo"] = f"MemFree: 1 kB\nMemTotal: {16 * GB // 1024} kB\n"
    assert machine_of(lambda path: system.get(path, ""), 4) == wanted


def test_this_machine_has_something():
    """Whatever it is, there is at least some of it."""
    machine = this_machine()
    assert machine.cpu > 0
    assert machine.memory > 10**8


@pytest.mark.parametrize(
    "said", [{"gpu 1": 1}, {"x" * 41: 1}, {f"r{n}": 1 for n in range(21)}, {"cpu": -1}]
)
def test_offers_make_sense(said: dict[str, float]):
    """Offers are told to all processes first of all, so they are short."""
    with pytest.raises(ValueError, match="."):
        check_offer(said)


CPU, GPU, BOTH = Resources(cpu=2), Resources(gpu=1), Resources(cpu=2, gpu=1)


@pytest.mark.parametrize(
    ("options", "offers"),
    [
        ({}, [Resources(), Resources()]),
        ({"resources": CPU}, [CPU, BOTH]),
        ({"resources": GPU, "placement": "any"}, [CPU, BOTH]),
        ({"resources": GPU, "placement": Label("cpu")}, [GPU, BOTH]),
        ({"placement": Label("gpu")}, [CPU, GPU]),
    ],
)
def test_what_some_worker_can_run_is_started(options: dict[str, Any], offers: list[Resources]):
    """Tasks that stay need it of every worker, others of one."""
    check_demands(plan(flow_with(**options)[0], 2), offers)


@pytest.mark.parametrize(
    ("options", "offers", "wanted"),
    [
        (
            {"resources": GPU},
            [BOTH, CPU],
            (
                "a task of step 'flow.double' takes gpu=1 of the worker that has the record, and "
                "not every worker offers so much (worker 0 offers cpu=2,gpu=1; worker 1 offers "
                "cpu=2); say what workers offer with --resources, or let the step take less, or "
                'give it `placement="any"`'
            ),
        ),
        (
            {"resources": Resources(cpu=3, memory=GB), "placement": "any"},
            [CPU, CPU],
            "of any worker, and no worker offers so much (workers 0, 1 offer cpu=2)",
        ),
        (
            {"resources": CPU, "placement": Label("gpu")},
            [CPU, GPU],
            "takes cpu=2 of a worker that offers 'gpu', and no worker offers both",
        ),
        (
            {"placement": Label("eu")},
            [CPU, Resources()],
            "runs on a worker that offers 'eu', and no worker does (worker 0 offers cpu=2; worker",
        ),
    ],
)
def test_what_no_worker_can_run_is_not_started(
    options: dict[str, Any], offers: list[Resources], wanted: str
):
    """The error names the step, what it takes and what each worker offers."""
    with pytest.raises(FlowError) as caught:
        check_demands(plan(flow_with(**options)[0], 2), offers)
    assert wanted in str(caught.value)


def test_a_run_is_refused_before_anything_is_opened():
    """With one worker, and with several."""
    flow, out = flow_with(resources=Resources(gpu=1))
    with pytest.raises(FlowError, match="gpu=1"):
        run_main(flow)
    with pytest.raises(FlowError, match="gpu=1"):
        cluster_main(flow, [], 0, worker_count_per_proc=2)
    assert out == []


def test_a_run_has_what_is_said():
    """Tasks run when their worker is said to have what they take."""
    flow, out = flow_with(resources=Resources(gpu=1, memory=GB))
    run_main(flow, resources={"gpu": 1, "memory": GB})
    assert out == [2, 4, 6]


def test_tasks_of_all_steps_together_take_no_more_than_there_is():
    """Two steps that each could fill the worker share it."""
    flow, running, most, out = Dataflow("flow"), list[int](), list[int](), list[int]()
    pair = threading.Barrier(2, timeout=30)

    def count(n: int) -> int:
        running.append(n)
        most.append(len(running))
        pair.wait()
        running.remove(n)
        return n

    s = op.input("in", flow, TestingSource(range(50)))
    for name in "ab":
        counted = task(name, s, count, executor="thread", resources=Resources(slots=2))
        op.output(f"out_{name}", counted.ok, TestingSink(out))
    run_main(flow, resources={"slots": 5})
    assert sorted(out) == sorted([*range(50), *range(50)])
    assert max(most) == 2
