"""What a job's actors answer to questions from outside: from a path and a query to a JSON text.

Runs on threads of the endpoint (`engine.runtime._actor_endpoint`). The state comes from the desk
(`engine.runtime._questions`), as of the last durable epoch, and is an object of the question's own:
whatever a shared method does to it, nobody else sees.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import parse_qsl, unquote
from uuid import UUID

from engine.errors import EngineError, UserCodeError
from engine.keys import encode_key
from engine.operators.actors import Asked, Ref
from engine.operators.actors._actor import Actor, Blueprint
from engine.operators.actors._actor_op import ActorKernel
from engine.operators.actors._shared import SharedMethod
from engine.runtime._actor_state import ActorForm
from engine.runtime._failure import name_of
from engine.runtime._ids import Epoch
from engine.runtime._plan import Plan
from engine.runtime._questions import Desk, UnansweredError

_PATIENCE_S: Final = 5.0
"""How long a worker may take to answer."""
_ROOT: Final = "actors"


class RefusedError(Exception):
    """A question without an answer, for a reason that its asker is told.

    Args:
        status: Of the response.
        why: A line for people.
    """

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


@dataclass(frozen=True, slots=True)
class Answered:
    """What an actor has answered."""

    text: str
    """As JSON."""
    epoch: Epoch | None
    """The epoch as of which it is; None where that makes no difference."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is asked, of whom."""

    step_id: str
    blueprint: Blueprint
    key: Any
    address: Any
    """What the store has the actor under: the plain key for one of the step's first class."""
    method: SharedMethod
    arguments: dict[str, Any]


class ActorAnswers:
    """Answers questions about the actors of a job.

    Args:
        planned: What the job runs.
        desk: Gets states from workers.
        tell: Takes a line about a method that has raised.
    """

    def __init__(self, planned: Plan, desk: Desk, tell: Callable[[str], None]) -> None:
        self._desk = desk
        self._tell = tell
        self._steps: dict[str, dict[str, Blueprint]] = {}
        """Classes with shared methods or without, by step and name; the first one first."""
        for step in planned.steps:
            if isinstance(step.kernel, ActorKernel):
                classes = {cls.__name__: cls.blueprint for cls in step.kernel.classes}
                self._steps[step.step_id] = classes
        self._flow = f"{planned.flow_id}."

    @property
    def silent(self) -> bool:
        """Whether no actor of the job can be asked anything."""
        return not any(b.shared for classes in self._steps.values() for b in classes.values())

    def answer(self, target: str) -> Answered:
        """What is answered to a path with a query.

        Raises:
            RefusedError: Nothing is.
        """
        path, _, query = target.partition("?")
        root, _, rest = path.removeprefix("/").partition("/")
        if root != _ROOT:
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is /actors/<step>/<key>")
        if not rest:
            return Answered(json.dumps(self._all()), None)
        step, slash, key = rest.partition("/")
        if not slash or "/" in key:
            why = "the path must be /actors/<step>/<key>, with a / in a key written as %2F"
            raise RefusedError(HTTPStatus.NOT_FOUND, why)
        return self._ask(self._wanted(_text(step), _text(key), _said(query)))

    def _all(self) -> dict[str, dict[str, list[str]]]:
        """The methods that can be asked, by class and step."""
        return {
            step_id.removeprefix(self._flow): {
                name: list(blueprint.shared) for name, blueprint in classes.items()
            }
            for step_id, classes in self._steps.items()
        }

    def _wanted(self, step: str, key: str, said: dict[str, str]) -> _Wanted:
        step_id = step if step in self._steps else f"{self._flow}{step}"
        classes = self._steps.get(step_id)
        if classes is None:
            there = ", ".join(repr(i.removeprefix(self._flow)) for i in self._steps)
            raise RefusedError(
                HTTPStatus.NOT_FOUND, f"no actors in step {step!r}; there is {there}"
            )
        first = next(iter(classes))
        name = said.pop("class", first)
        blueprint = classes.get(name)
        if blueprint is None:
            why = f"step {step!r} has no actors of class {name!r}; it has {', '.join(classes)}"
            raise RefusedError(HTTPStatus.NOT_FOUND, why)
        found = _key_of(key, said.pop("key", "text"))
        method = _method_of(blueprint, said.pop("ask", None))
        try:
            arguments = method.arguments(said)
        except ValueError as ex:
            raise RefusedError(HTTPStatus.BAD_REQUEST, str(ex)) from None
        address = found if name == first else Ref(name, found)
        return _Wanted(step_id, blueprint, found, address, method, arguments)

    def _ask(self, wanted: _Wanted) -> Answered:
        try:
            found = self._desk.ask(wanted.step_id, wanted.address, wanted.key, _PATIENCE_S)
        except UnansweredError as ex:
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, str(ex)) from None
        if found.trouble:
            raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, found.trouble)
        if not found.epoch:
            why = "no epoch is saved yet, and what isn't saved can't be told"
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, why)
        row = pickle.loads(found.row)  # noqa: S301 - made by a worker of this job
        name = wanted.blueprint.name
        if row is None:
            why = f"epoch {found.epoch} has no {name} with key {wanted.key!r}"
            raise RefusedError(HTTPStatus.NOT_FOUND, why)
        form = ActorForm(self._steps[wanted.step_id])
        try:
            actor = form.from_stored(wanted.address, row)
        except EngineError as ex:
            raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, str(ex)) from ex
        return Answered(self._call(wanted, actor, found.epoch), found.epoch)

    def _call(self, wanted: _Wanted, actor: Actor, epoch: Epoch) -> str:
        """What the method gives, as JSON."""
        method = getattr(actor, wanted.method.name)
        who = f"{wanted.blueprint.name}.{wanted.method.name}"
        try:
            found = method(Asked(wanted.key, epoch), **wanted.arguments)
        except Exception as ex:
            # A user's method may raise whatever it likes.
            why = f"{who} has raised {name_of(ex)}"
            self._tell(f"asked for {wanted.key!r} of step {wanted.step_id!r}: {why}")
            raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, why) from ex
        try:
            return json.dumps(found, default=_plain, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as ex:
            why = f"what {who} gives can't be written as JSON: {ex}"
            self._tell(f"asked for {wanted.key!r} of step {wanted.step_id!r}: {why}")
            raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, why) from ex


def _text(part: str) -> str:
    """A part of a path, decoded."""
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"{part!r:.80} is not UTF-8") from None


def _said(query: str) -> dict[str, str]:
    """What a query says, each name once."""
    if not query:
        return {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:
        why = f"the query {query!r:.80} is not name=value, with & between several"
        raise RefusedError(HTTPStatus.BAD_REQUEST, why) from None
    said = dict(pairs)
    if len(said) < len(pairs):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "the query says something twice")
    return said


def _key_of(text: str, form: str) -> Any:
    """A key in one of the two forms that a path has for it."""
    if form == "text":
        return text
    why = f"?key={form!s:.80} is none of text, which is meant if nothing is said, and json"
    if form == "json":
        try:
            key = _as_key(json.loads(text))
            encode_key(key)
        except (ValueError, RecursionError):
            why = f"{text!r:.80} is not JSON"
        except UserCodeError as ex:
            why = str(ex)
        else:
            return key
    raise RefusedError(HTTPStatus.BAD_REQUEST, why)


def _as_key(value: Any) -> Any:
    """A key that is written as JSON: lists are tuples."""
    if not isinstance(value, list):
        return value
    return tuple(map(_as_key, cast("list[Any]", value)))


def _method_of(blueprint: Blueprint, ask: str | None) -> SharedMethod:
    shared: Mapping[str, SharedMethod] = blueprint.shared
    there = ", ".join(shared)
    if not shared:
        why = f"{blueprint.name} has no methods marked as `shared`, so it can't be asked"
        raise RefusedError(HTTPStatus.NOT_FOUND, why)
    if ask is None:
        if len(shared) == 1:
            return next(iter(shared.values()))
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"say what to ask with ?ask=, one of {there}")
    method = shared.get(ask)
    if method is None:
        why = f"{blueprint.name} can't be asked for {ask!r}; it has {there}"
        raise RefusedError(HTTPStatus.BAD_REQUEST, why)
    return method


def _plain(value: Any) -> Any:
    """What `json` doesn't write by itself."""
    if is_dataclass(value) and not isinstance(value, type):
        return dict(_fields_of(value))
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal | UUID):
        return str(value)
    msg = f"{type(value).__name__} has no form in it"
    raise TypeError(msg)


def _fields_of(value: Any) -> Iterator[tuple[str, Any]]:
    for field in fields(value):
        yield field.name, getattr(value, field.name)
