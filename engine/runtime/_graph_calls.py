"""One call of a task graph, and one time that a call waits: what `TaskGraphs` knows of them."""

from __future__ import annotations

from enum import Enum
from typing import Any

from engine.operators.tasks._context import TaskContext
from engine.operators.tasks._executor import Kind
from engine.operators.tasks._requests import Outcome, Waits, Work
from engine.operators.tasks._resources import Resources


class State(Enum):
    """What a call is doing."""

    BLOCKED = "blocked"
    """It needs results that aren't there."""
    READY = "ready"
    """It can begin."""
    RUNNING = "running"
    """The executor has it."""
    WAITING = "waiting"
    """The executor has it, and it waits for subtasks of its own."""
    ENDING = "ending"
    """Its function has returned, and some of its subtasks haven't."""
    OVER = "over"


class GraphCall:
    """A root or a subtask.

    Args:
        number: The table's number of a root; a subtask's number among those of its parent.
        parent: The call that has submitted it; None for a root.
        work: What to call; None for a root.
    """

    __slots__ = (
        "_context",
        "argument",
        "began_s",
        "call_id",
        "children",
        "deaths",
        "depth",
        "failed",
        "fetched",
        "held",
        "kind",
        "let_go",
        "missing",
        "number",
        "open",
        "parent",
        "resources",
        "state",
        "submitted_s",
        "unwanted",
        "users",
        "users_open",
        "uses",
        "value",
        "waiters",
        "waits",
        "work",
    )

    def __init__(self, number: int, parent: GraphCall | None, work: Work | None) -> None:
        self.number = number
        self.parent = parent
        self.work = work
        self.argument: Any = None
        """The record of a root."""
        self.resources: Resources | None = None if work is None else work.resources
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.state = State.BLOCKED
        self.call_id = 0
        """Of its current try, or the last."""
        self.deaths = 0
        self.submitted_s = 0.0
        self.began_s: float | None = None
        self.uses: list[GraphCall] = []
        """Those whose results it needs."""
        self.missing = 0
        """How many of them aren't over."""
        self.users: list[GraphCall] = []
        """Those that need its result and wait for it."""
        self.users_open = 0
        """How many that need its result may need it again."""
        self.waiters: list[Wait] = []
        self.children: dict[int, GraphCall] = {}
        self.open = 0
        """How many of its children aren't over."""
        self.failed: list[GraphCall] = []
        """Its children that have failed."""
        self.waits: dict[int, Wait] = {}
        """What it waits for, by number."""
        self.kind: Kind | None = None
        self.value: Any = None
        self.held = True
        """Whether its parent may still ask for its result."""
        self.fetched = False
        """Whether its failure is known to somebody."""
        self.let_go = False
        """Whether its result is gone, as nobody needs it."""
        self.unwanted = False
        """Whether it was given up, and is left to end by itself."""
        self._context: TaskContext | None = None

    @classmethod
    def root(
        cls, number: int, argument: tuple[Any, TaskContext], resources: Resources | None
    ) -> GraphCall:
        """A call of the table."""
        root = cls(number, None, None)
        root.argument, root._context = argument
        root.resources = resources
        return root

    def child(self, number: int, work: Work) -> GraphCall:
        """A subtask of it."""
        child = self.children[number] = GraphCall(number, self, work)
        self.open += 1
        return child

    def left_alone(self) -> GraphCall:
        """What remains of it in the executor, when nobody waits for it any more."""
        ghost = GraphCall(self.number, self.parent, self.work)
        ghost.state, ghost.call_id, ghost.resources = self.state, self.call_id, self.resources
        ghost.waits, self.waits = self.waits, {}
        ghost.unwanted = True
        for wait in ghost.waits.values():
            wait.call = ghost
        return ghost

    @property
    def may_wait(self) -> bool:
        """Whether it may have subtasks to wait for."""
        return self.work is None or self.work.takes_context

    @property
    def context(self) -> TaskContext | None:
        """What its function gets as ``ctx``, if it does."""
        if self._context is None and self.parent is not None and self.may_wait:
            above = self.parent.context
            assert above is not None  # noqa: S101 - it has submitted this one
            self._context = above.of_subtask(self.number)
        return self._context

    @property
    def has_failed(self) -> bool:
        """Whether it is over, and gave no result."""
        return self.state is State.OVER and self.kind is not Kind.RETURNED


class Wait:
    """One time that a call waits for some of its subtasks.

    Args:
        call: Which call.
        request: What it waits for.
    """

    __slots__ = ("_reply", "_takes_failures", "call", "children", "failure", "missing", "number")

    def __init__(self, call: GraphCall, request: Waits) -> None:
        self.call = call
        self.number = request.wait
        self._reply = request.reply
        self._takes_failures = request.takes_failures
        # One that was given up has none, and waits only to hear of that.
        numbers = () if call.unwanted else request.numbers
        self.children = [call.children[number] for number in numbers]
        self.missing = {child for child in self.children if child.state is not State.OVER}
        self.failure: BaseException | None = None
        """What ends it before all are over."""
        for child in self.children:
            self._note_failure(child)

    def _note_failure(self, child: GraphCall) -> None:
        if child.has_failed and not self._takes_failures and self.failure is None:
            self.failure = child.value

    @property
    def over(self) -> bool:
        """Whether it can be answered."""
        return self.failure is not None or not self.missing or self.call.unwanted

    def over_still(self) -> bool:
        """As `over`; if what it had waited for must be made again, it goes on waiting."""
        if self.failure is None:
            self.missing = {child for child in self.children if child.state is not State.OVER}
            for child in self.children:
                self._note_failure(child)
        return self.over

    def hears_of(self, child: GraphCall) -> bool:
        """One of them is over. Whether that is the end of the wait."""
        if self.over:
            return False
        self.missing.discard(child)
        self._note_failure(child)
        return self.over

    def answer(self) -> None:
        """Let the call go on."""
        if self.call.unwanted:
            self._reply(None)
            return
        for child in self.children:
            child.fetched = child.fetched or child.has_failed
        if self.failure is not None:
            self._reply([(False, self.failure)])
        else:
            self._reply([_outcome(child) for child in self.children])


def _outcome(child: GraphCall) -> Outcome:
    return child.kind is Kind.RETURNED, child.value
