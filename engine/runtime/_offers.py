"""What workers offer to tasks, and whether that is enough for all tasks of a plan. Pure.

Asked before anything is opened: a task that could never begin would hold up its job for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from engine.errors import FlowError
from engine.operators.actors._actor_op import ActorKernel
from engine.operators.tasks._policies import Placement
from engine.operators.tasks._resources import PARTS, Label, Resources, resources_of
from engine.operators.tasks._task import TaskKernel
from engine.runtime._machine import Machine
from engine.runtime._plan import Plan

_NAMES_MAX = 20
_NAME_LENGTH_MAX = 40
"""An offer must fit into what processes of a cluster say to each other first."""
_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def offer_of(machine: Machine, share: int, said: Mapping[str, float] | None) -> Resources:
    """What each of some workers offers.

    Args:
        machine: Where they are.
        share: How many of them share it.
        said: What somebody has said that each offers; what isn't in it is a share of the machine.

    Raises:
        TypeError: As `check_offer`.
        ValueError: As `check_offer`.
    """
    said = said or {}
    check_offer(said)
    cpu = max(1, int(machine.cpu * PARTS / share)) / PARTS
    return _resources({"cpu": cpu, "memory": machine.memory // share, **said})


def check_offer(said: Mapping[str, float]) -> None:
    """See that workers can offer what somebody has said.

    Raises:
        TypeError: An amount isn't a number.
        ValueError: An amount or a name makes no sense, or there are too many names, or too long
            ones.
    """
    if len(said) > _NAMES_MAX or any(len(name) > _NAME_LENGTH_MAX for name in said):
        msg = (
            f"a worker may offer {_NAMES_MAX} resources, with names of {_NAME_LENGTH_MAX} "
            f"characters; got {', '.join(said):.200}"
        )
        raise ValueError(msg)
    for name in said:
        Label(name)
    _resources(said)


def _resources(amounts: Mapping[str, float]) -> Resources:
    return Resources(**amounts)  # type: ignore[arg-type] # any number of bytes is looked at there


def wants_offers(planned: Plan) -> bool:
    """Whether a plan has tasks that need to know what workers offer."""
    kernels = [step.kernel for step in planned.steps if isinstance(step.kernel, TaskKernel)]
    # Subtasks may take resources, of which nobody knows before they do.
    return (
        lends(planned)
        or any(k.takes_context or k.rules.resources is not None for k in kernels)
        or any(True for _ in _dedicated(planned))
    )


def _dedicated(planned: Plan) -> Iterator[tuple[str, str, Resources]]:
    """Classes of actors whose handlers take resources: step, name, and what they take."""
    for step in planned.steps:
        if isinstance(step.kernel, ActorKernel):
            for cls in step.kernel.classes:
                rules = cls.dedicated
                if rules is not None and rules.resources is not None:
                    yield step.step_id, cls.__name__, rules.resources


def lends(planned: Plan) -> bool:
    """Whether a plan has tasks that other workers may run than those that have the records."""
    kernels = [step.kernel for step in planned.steps if isinstance(step.kernel, TaskKernel)]
    return any(kernel.rules.placement != "worker" for kernel in kernels)


def check_demands(planned: Plan, offers: Sequence[Resources]) -> None:
    """See that each task of a plan can be run by the workers that it may come to, and each handler.

    Args:
        planned: The plan.
        offers: What each worker offers, in their order.

    Raises:
        FlowError: A step takes more than that.
    """
    for step in planned.steps:
        if isinstance(step.kernel, TaskKernel):
            rules = step.kernel.rules
            able = able_workers(rules.resources, rules.placement, offers)
            enough = len(offers) if rules.placement == "worker" else 1
            if len(able) < enough:
                raise FlowError(_refusal(step.step_id, step.kernel, offers))
    for step_id, name, demand in _dedicated(planned):
        if len(able_workers(demand, "worker", offers)) < len(offers):
            msg = (
                f"handlers of the dedicated class {name!r} of step {step_id!r} take "
                f"{shown_resources(demand)} of the worker that has the actor, and not every "
                f"worker offers so much ({_told(offers)}); say what workers offer with "
                "--resources, or let the class take less"
            )
            raise FlowError(msg)


def able_workers(
    demand: Resources | None, placement: Placement, offers: Sequence[Resources]
) -> list[int]:
    """The workers that could run a task if they had nothing else to do."""
    wanted = resources_of({}) if demand is None else demand
    label = placement.name if isinstance(placement, Label) else None
    return [
        worker
        for worker, offer in enumerate(offers)
        if all(parts <= offer.parts.get(name, 0) for name, parts in wanted.parts.items())
        and (label is None or label in offer.parts)
    ]


def _refusal(step_id: str, kernel: TaskKernel, offers: Sequence[Resources]) -> str:
    demand, placement = kernel.rules.resources, kernel.rules.placement
    takes = f"takes {shown_resources(demand)}" if demand is not None and demand.parts else "runs"
    if isinstance(placement, Label):
        where, which = f"of a worker that offers {placement.name!r}", "no worker offers both"
        if not (demand is not None and demand.parts):
            where, which = f"on a worker that offers {placement.name!r}", "no worker does"
    elif placement == "any":
        where, which = "of any worker", "no worker offers so much"
    else:
        where, which = "of the worker that has the record", "not every worker offers so much"
    advice = "say what workers offer with --resources, or let the step take less"
    if placement == "worker" and able_workers(demand, "any", offers):
        advice += ', or give it `placement="any"`'
    return f"a task of step {step_id!r} {takes} {where}, and {which} ({_told(offers)}); {advice}"


def _told(offers: Sequence[Resources]) -> str:
    told: dict[Resources, list[int]] = {}
    for worker, offer in enumerate(offers):
        told.setdefault(offer, []).append(worker)
    return "; ".join(f"{_numbered(workers)} {shown_resources(o)}" for o, workers in told.items())


def _numbered(workers: list[int]) -> str:
    if len(workers) == 1:
        return f"worker {workers[0]} offers"
    return f"workers {', '.join(map(str, workers))} offer"


def shown_resources(resources: Resources) -> str:
    """Amounts as the command line takes them.

    >>> shown_resources(Resources(cpu=2, gpu=0.25, memory=4_000_000_000))
    'cpu=2,gpu=0.25,memory=4GB'
    """
    shown = (f"{name}={_amount(name, parts)}" for name, parts in resources.parts.items())
    return ",".join(shown) or "nothing"


def _amount(name: str, parts: int) -> str:
    amount = parts / PARTS
    if name == "memory":
        for unit, nbytes in _UNITS:
            if amount >= nbytes:
                return f"{amount / nbytes:.4g}{unit}"
    return f"{amount:.12g}"
