"""Objects with a state of their own that send each other messages, inside a flow: `actor`.

>>> from engine.operators.actors import Actor, actor, handles
"""

from engine.operators.actors._actor import Actor, handles
from engine.operators.actors._actor_op import ActorOut, DeadMessage, actor
from engine.operators.actors._context import Context
from engine.operators.actors._dedicated import dedicated
from engine.operators.actors._ref import Ref
from engine.operators.actors._shared import Asked, shared
from engine.operators.actors._signals import (
    ChildFailed,
    Passivating,
    Restored,
    Signal,
    Started,
    Terminated,
)
from engine.operators.actors._supervision import (
    Directive,
    Escalate,
    Restart,
    Resume,
    Retry,
    Stop,
)
from engine.operators.tasks import Exponential

__all__ = [
    "Actor",
    "ActorOut",
    "Asked",
    "ChildFailed",
    "Context",
    "DeadMessage",
    "Directive",
    "Escalate",
    "Exponential",
    "Passivating",
    "Ref",
    "Restart",
    "Restored",
    "Resume",
    "Retry",
    "Signal",
    "Started",
    "Stop",
    "Terminated",
    "actor",
    "dedicated",
    "handles",
    "shared",
]
