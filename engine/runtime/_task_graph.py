"""Tasks that have subtasks: what runs, what waits for what, and whom to tell.

`TaskGraphs` stands between a step's table and its executor, and looks like an executor to the
table: the table's calls are the roots. It does nothing by itself: it hears what running calls ask
and how calls end, and says what to run, whom to answer and whom to give up. Nothing of it is in the
store: the unit of recovery is the root's record.

**Limits.** What runs is never more than the step's `max_in_flight`. A call that waits for its
subtasks doesn't run: it gives its place and its resources back, and takes them again before it goes
on. Calls that go on come first, then the deepest of those that can begin. A call that may come to
wait only begins if the executor has a place for it. So if there are `p` places, hardly more than
`p` calls of each depth wait; and however many wait, one can begin if nothing runs.

**No circles.** A call can only wait for subtasks of its own, and a subtask only needs those that
the same call has submitted before. So among those that have not ended, the one that was submitted
last at the greatest depth waits for nobody.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import Any

from engine.errors import SubtaskCancelledError, UserCodeError
from engine.operators.tasks._executor import Call, Completion, Kind, RunningExecutor
from engine.operators.tasks._requests import (
    DEPTH_MAX,
    Drops,
    GivesUp,
    Invocation,
    Lost,
    Misses,
    ObjectRef,
    Request,
    Submitted,
    Waits,
)
from engine.runtime._graph_calls import GraphCall, State, Wait
from engine.runtime._graph_rules import GraphRules

_WAITING_PER_PLACE = 16
"""So many calls may wait before one more that may wait begins, for each place. Each of them keeps a
thread or a process."""


class TaskGraphs(RunningExecutor):
    """Runs calls that may have subtasks.

    Args:
        executor: Runs calls and subtasks.
        rules: What bounds them.
        now_s: A clock that never goes back, as of `time.monotonic`.
    """

    def __init__(
        self, executor: RunningExecutor, rules: GraphRules, now_s: Callable[[], float]
    ) -> None:
        self._executor = executor
        self._rules = rules
        self._now_s = now_s
        self._places = math.inf if executor.places is None else executor.places
        self._next_call = 0
        self._roots: dict[int, GraphCall] = {}
        """Those that aren't over, by the number that the table gave them."""
        self._live: dict[int, GraphCall] = {}
        """Those that the executor has, by the number of the call."""
        self._running = 0
        self._waiting = 0
        self._ready: list[tuple[int, int, GraphCall]] = []
        """Those that can begin, deepest and then oldest first; a heap."""
        self._demanding: list[tuple[int, int, GraphCall]] = []
        """As `_ready`: those that take resources."""
        self._admitted = 0
        self._going_on: deque[Wait] = deque()
        """Waits that are over, and not answered."""
        self._short = False
        """Whether one that would go on finds too few resources."""
        self._ended: list[tuple[GraphCall, Kind, Any]] = []
        """What has just ended, and whose parents and dependents haven't heard of it."""
        self._over: list[Completion] = []
        """Roots that have ended."""
        self._alone: deque[tuple[float, int]] = deque()
        """When calls that nobody waits for lose their places, and which."""

    # From the table

    def submit(self, calls: Sequence[Call]) -> None:
        """As in `RunningExecutor`."""
        resources = self._rules.root_resources
        for call_id, argument in calls:
            root = GraphCall.root(call_id, argument, resources)
            self._roots[call_id] = root
            self._admit(root)
        self._turn()

    def completions(self) -> list[Completion]:
        """As in `RunningExecutor`; all other work is done here as well."""
        completions = self._executor.completions()
        while self._alone and self._alone[0][0] <= self._now_s():
            call_id = self._alone.popleft()[1]
            if call_id in self._live:
                self._leave_executor(self._live[call_id])
                self._executor.cancel(call_id)
        for request in self._executor.requests():
            self._take_request(request)
        for completion in completions:
            self._take_completion(completion)
        self._turn()
        over, self._over = self._over, []
        return over

    def ended(self) -> bool:
        """As in `RunningExecutor`: whether there is anything to do."""
        return bool(self._over) or self._executor.ended() or self._can_take_resources()

    def due_s(self) -> float:
        """As in `RunningExecutor`."""
        return self._alone[0][0] if self._alone else math.inf

    def _can_take_resources(self) -> bool:
        """Whether others have given back what calls here wait for."""
        if self._running >= self._rules.max_in_flight:
            return False
        if self._going_on:
            return any(self._has_resources(wait.call) for wait in self._going_on)
        first = self._demanding[0][2] if self._demanding else None
        if first is None or (first.may_wait and not self._has_place()):
            return False
        return self._has_resources(first)

    def _has_resources(self, call: GraphCall) -> bool:
        account = self._rules.account
        return account is None or call.resources is None or account.has(call.resources)

    def started_s(self, call_id: int) -> float | None:
        """As in `RunningExecutor`. While it waits, its time goes on."""
        root = self._roots.get(call_id)
        if root is None:
            return None
        if root.began_s is None and root.state is State.RUNNING:
            root.began_s = self._executor.started_s(root.call_id)
        return root.began_s

    def _note_began(self, call: GraphCall) -> None:
        """The executor will not know it much longer."""
        if call.began_s is None and call.parent is None:
            began_s = self._executor.started_s(call.call_id)
            call.began_s = call.submitted_s if began_s is None else began_s

    def cancel(self, call_id: int) -> None:
        """As in `RunningExecutor`: its subtasks are given up with it."""
        root = self._roots.pop(call_id, None)
        if root is not None:
            self._stop(root, at_once=True)
            self._turn()

    def close(self, timeout_s: float) -> list[str]:
        """As in `RunningExecutor`."""
        return self._executor.close(timeout_s)

    # What running calls ask

    def _take_request(self, request: Request) -> None:
        call = self._live.get(request.call_id)
        if isinstance(request, Waits):
            if call is None:
                # It was given up. If it still is there, it must not wait.
                request.reply(None)
            else:
                self._add_wait(call, request)
        elif call is not None and not call.unwanted:
            self._take_other_request(call, request)

    def _take_other_request(
        self, call: GraphCall, request: Submitted | GivesUp | Misses | Drops
    ) -> None:
        if isinstance(request, Submitted):
            self._add(call, request)
        elif isinstance(request, Drops):
            for number in request.numbers:
                if (child := call.children.get(number)) is not None:
                    child.held = False
                    self._forget(child)
        elif isinstance(request, Misses):
            for number, name in request.lost:
                self._run_again(call.children[number], name)
        else:
            self._withdraw(call, request)

    def _add(self, parent: GraphCall, request: Submitted) -> None:
        child = parent.child(request.number, request.work)
        for number in request.work.needs:
            needed = parent.children[number]
            child.uses.append(needed)
            needed.users_open += 1
        if (error := self._refused(child)) is not None:
            self._end(child, Kind.RAISED, error)
        elif self._has_all(child):
            self._admit(child)
        self._settle()

    def _refused(self, call: GraphCall) -> UserCodeError | None:
        """Why a subtask can never run."""
        demand, offer = call.resources, self._rules.offer
        if call.depth > DEPTH_MAX:
            return UserCodeError(
                f"subtasks of subtasks are nested more than {DEPTH_MAX} deep",
                hint="a function that submits itself needs an end, or larger steps",
            )
        if demand is None or offer is None:
            return None
        if any(parts > offer.parts.get(name, 0) for name, parts in demand.parts.items()):
            return UserCodeError(
                f"a subtask needs {demand}, and its worker offers {offer} in all",
                hint="offer more with --resources; a subtask runs where its task does",
            )
        return None

    def _admit(self, call: GraphCall) -> None:
        call.state = State.READY
        takes = call.resources is not None and call.parent is not None
        heap = self._demanding if takes and self._rules.account is not None else self._ready
        heappush(heap, (-call.depth, self._admitted, call))
        self._admitted += 1

    def _add_wait(self, call: GraphCall, request: Waits) -> None:
        wait = call.waits[request.wait] = Wait(call, request)
        if call.state is State.RUNNING:
            self._note_began(call)
            self._leave_place(call)
            call.state = State.WAITING
            self._waiting += 1
        if wait.over:
            self._going_on.append(wait)
            self._give_up_rest(wait)
            self._settle()
            return
        for child in wait.missing:
            child.waiters.append(wait)

    def _withdraw(self, call: GraphCall, request: GivesUp) -> None:
        if call.waits.pop(request.wait, None) is None or call.waits:
            return
        # It runs already: that can't wait for a place.
        self._take_place(call)

    # How calls end

    def _take_completion(self, completion: Completion) -> None:
        call_id, kind, value = completion
        call = self._live.get(call_id)
        if call is not None:
            self._note_began(call)
            self._leave_executor(call)
        if call is None or call.unwanted:
            if kind is Kind.RETURNED:
                self._executor.release(value)
            return
        if kind is Kind.RETURNED and not isinstance(value, Lost):
            call.state, call.kind, call.value = State.ENDING, kind, value
            self._end_if_all_have(call)
        else:
            self._stop_children(call)
            if isinstance(value, Lost):
                self._make_again(call, value)
            elif kind is Kind.DIED and call.parent is not None:
                self._died(call, value)
            else:
                self._end(call, kind, value)
        self._settle()

    def _died(self, call: GraphCall, error: Any) -> None:
        call.deaths += 1
        if call.deaths >= self._rules.deaths:
            self._end(call, Kind.DIED, error)
        else:
            self._admit(call)

    def _make_again(self, call: GraphCall, lost: Lost) -> None:
        """Results that a subtask needs are gone: the subtasks that gave them run again."""
        gone = dict(lost.objects)
        for used in call.uses:
            if used.number in gone:
                self._run_again(used, gone[used.number])
        if self._has_all(call):
            self._admit(call)

    def _has_all(self, call: GraphCall) -> bool:
        """Whether all that a call needs is there. If not, it waits for that, or fails."""
        for used in call.uses:
            if used.state is not State.OVER:
                used.users.append(call)
                call.missing += 1
                call.state = State.BLOCKED
            elif used.has_failed:
                self._fail_with(call, used)
                return False
        return not call.missing

    def _run_again(self, lost: GraphCall, name: str) -> None:
        value: Any = lost.value
        # It may have run again since.
        if isinstance(value, ObjectRef) and value.name == name:
            assert lost.parent is not None  # noqa: S101 - roots give no such results
            lost.parent.open += 1
            lost.kind, lost.value = None, None
            self._admit(lost)

    def _leave_executor(self, call: GraphCall) -> None:
        """It has ended, or nobody hears of it any more."""
        del self._live[call.call_id]
        if call.state is State.RUNNING:
            self._leave_place(call)
        else:
            self._waiting -= 1
        call.waits.clear()

    def _end_if_all_have(self, call: GraphCall) -> None:
        """End a call whose function has, if its subtasks have."""
        for child in call.failed:
            if not child.fetched:
                self._stop_children(call)
                self._end(call, Kind.RAISED, child.value)
                return
        if not call.open:
            assert call.kind is not None  # noqa: S101 - it has returned
            self._end(call, call.kind, call.value)

    def _end(self, call: GraphCall, kind: Kind, value: Any) -> None:
        if call.kind is Kind.RETURNED and kind is not Kind.RETURNED:
            # It had returned, but fails with one of its subtasks.
            self._executor.release(call.value)
        call.state, call.kind, call.value = State.OVER, kind, value
        self._ended.append((call, kind, value))

    def _settle(self) -> None:
        """Tell of what has ended, to all whom that lets go on or end in turn."""
        ended = self._ended
        while ended:
            call, kind, value = ended.pop()
            for child in list(call.children.values()):
                self._let_go(child)
            call.children.clear()
            call.failed.clear()
            parent = call.parent
            if parent is None:
                if self._roots.pop(call.number, None) is not None:
                    self._over.append(Completion(call.number, kind, value))
                continue
            parent.open -= 1
            if call.has_failed:
                parent.failed.append(call)
            self._tell_users(call)
            self._tell_waits(call)
            if not isinstance(value, ObjectRef):
                # Such a one may have to be made again, of what it was made of.
                self._let_go_of_used(call)
            self._forget(call)
            if parent.state is State.ENDING:
                self._end_if_all_have(parent)

    def _let_go_of_used(self, call: GraphCall) -> None:
        uses, call.uses = call.uses, []
        for used in uses:
            used.users_open -= 1
            self._forget(used)

    def _tell_users(self, call: GraphCall) -> None:
        users, call.users = call.users, []
        for user in users:
            if user.state is not State.BLOCKED:
                continue
            user.missing -= 1
            if call.has_failed:
                self._fail_with(user, call)
            elif not user.missing:
                self._admit(user)

    def _fail_with(self, user: GraphCall, failed: GraphCall) -> None:
        """What needs the result of one that has failed, fails with it."""
        failed.fetched = True
        user.fetched = isinstance(failed.value, SubtaskCancelledError)
        self._end(user, Kind.RAISED, failed.value)

    def _tell_waits(self, call: GraphCall) -> None:
        waiters, call.waiters = call.waiters, []
        for wait in waiters:
            if wait.hears_of(call):
                self._going_on.append(wait)
                self._give_up_rest(wait)

    def _give_up_rest(self, wait: Wait) -> None:
        """The first of some that are gathered has failed: the others are of no use."""
        if wait.failure is None:
            return
        for child in wait.children:
            if child.state is not State.OVER:
                self._stop(child)
                child.fetched = True
                self._end(child, Kind.RAISED, _given_up(wait.failure))

    # What nobody wants any more

    def _stop(self, call: GraphCall, *, at_once: bool = False) -> None:
        """Give up what runs of a call and its subtasks, and forget what doesn't."""
        if call.state is State.OVER:
            return
        self._stop_children(call, at_once=at_once)
        runs = call.state is State.RUNNING
        if runs or call.state is State.WAITING:
            if self._executor.stops or (at_once and runs):
                self._leave_executor(call)
                self._executor.cancel(call.call_id)
            else:
                # It ends by itself, and keeps its place until then.
                ghost = self._live[call.call_id] = call.left_alone()
                if self._rules.left_alone_s < math.inf:
                    self._alone.append((self._now_s() + self._rules.left_alone_s, call.call_id))
                self._going_on.extend(ghost.waits.values())
        call.state = State.OVER

    def _stop_children(self, call: GraphCall, *, at_once: bool = False) -> None:
        for child in list(call.children.values()):
            self._stop(child, at_once=at_once)
            self._let_go(child)
        call.children.clear()
        call.failed.clear()
        call.open = 0

    def _forget(self, call: GraphCall) -> None:
        """Let go of a result that nobody can ask for any more."""
        if call.state is State.OVER and not call.held and not call.users_open:
            self._let_go(call)
            if call.parent is not None and not (call.has_failed and not call.fetched):
                call.parent.children.pop(call.number, None)

    def _let_go(self, call: GraphCall) -> None:
        if call.kind is Kind.RETURNED and not call.let_go:
            call.let_go = True
            self._executor.release(call.value)
            call.value = None
            self._let_go_of_used(call)

    # What goes out

    def _turn(self) -> None:
        """Let go on and begin what can."""
        works = True
        while works and (self._going_on or self._ready or self._demanding):
            self._go_on()
            calls = list(self._beginning())
            works = bool(calls or self._ended)
            self._settle()
            if calls:
                self._executor.submit(calls)
        demanding = self._demanding
        while demanding and demanding[0][2].state is not State.READY:
            heappop(demanding)
        if self._rules.account is not None and not self._going_on and not demanding:
            # What others have given back is kept for who stands in line.
            self._rules.account.leave()

    def _go_on(self) -> None:
        """Let those go on that can. Nobody else takes resources before they have theirs."""
        later: list[Wait] = []
        self._short = False
        while self._going_on:
            wait = self._going_on.popleft()
            call = wait.call
            if call.waits.get(wait.number) is not wait or not self._is_over(wait):
                continue
            # An `async def` that waits for something else too isn't counted as running yet.
            if len(call.waits) == 1 and not self._may_go_on(call):
                later.append(wait)
                continue
            del call.waits[wait.number]
            if not call.waits:
                self._take_place(call)
            wait.answer()
        self._going_on.extend(later)

    def _is_over(self, wait: Wait) -> bool:
        """Whether all is still there that a call has waited for: it may have to be made again."""
        if wait.over_still():
            return True
        for child in wait.missing:
            child.waiters.append(wait)
        return False

    def _may_go_on(self, call: GraphCall) -> bool:
        if self._running >= self._rules.max_in_flight:
            return False
        account = self._rules.account
        if account is None or call.resources is None or call.unwanted:
            return True
        self._short = not account.take(call.call_id, call.resources)
        return not self._short

    def _take_place(self, call: GraphCall) -> None:
        call.state = State.RUNNING
        self._waiting -= 1
        self._running += 1

    def _leave_place(self, call: GraphCall) -> None:
        self._running -= 1
        rules = self._rules
        if call.resources is None or rules.account is None:
            return
        if call.parent is None and rules.root_account is not None:
            rules.root_account.give_back(call.number)
        rules.account.give_back(call.call_id)

    def _beginning(self) -> Iterable[Call]:
        """Calls to submit now; each counts as running."""
        while self._running < self._rules.max_in_flight:
            call = self._next_demanding() or self._next_ready()
            if call is None:
                return
            self._running += 1
            call.state = State.RUNNING
            call.submitted_s = self._now_s()
            self._live[call.call_id] = call
            yield Call(call.call_id, self._invocation(call))

    def _next_demanding(self) -> GraphCall | None:
        """The first that takes resources, if there are enough: else all others wait with it."""
        account, heap = self._rules.account, self._demanding
        while heap and not self._short:
            call = heap[0][2]
            if call.state is not State.READY or not self._has_all(call):
                heappop(heap)
            elif call.may_wait and not self._has_place():
                return None
            else:
                assert account is not None and call.resources is not None  # noqa: S101, PT018
                call.call_id = self._new_id()
                if not account.take(call.call_id, call.resources):
                    return None
                heappop(heap)
                return call
        return None

    def _next_ready(self) -> GraphCall | None:
        heap = self._ready
        while heap:
            call = heap[0][2]
            if call.state is State.READY and self._has_all(call):
                if call.may_wait and not self._has_place():
                    return None
                heappop(heap)
                call.call_id = self._new_id()
                return call
            heappop(heap)
        return None

    def _has_place(self) -> bool:
        """Whether one more that may come to wait can begin."""
        if not self._running:
            return True
        few = self._waiting < self._places * _WAITING_PER_PLACE
        return few and self._running < self._places

    def _new_id(self) -> int:
        self._next_call += 1
        return self._next_call

    def _invocation(self, call: GraphCall) -> Invocation:
        results = {used.number: used.value for used in call.uses}
        return Invocation(call.call_id, call.depth, call.work, call.argument, call.context, results)


def _given_up(failure: BaseException) -> SubtaskCancelledError:
    error = SubtaskCancelledError(
        "the subtask was given up, as one that was gathered with it had failed"
    )
    error.__cause__ = failure
    return error
