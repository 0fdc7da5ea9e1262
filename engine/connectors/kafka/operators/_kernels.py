"""What the operators do to each message, as lines of the loop that they share with other steps.

Nothing is called per record but what the user gave; a context is made once per topic, unless a
message has headers to show.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from confluent_kafka.serialization import MessageField, SerializationContext

from engine.connectors.kafka._messages import KafkaError, KafkaSinkMessage, KafkaSourceMessage
from engine.connectors.kafka._serde_base import BytesDeserializer, BytesSerializer
from engine.connectors.kafka.operators._errors import (
    OnError,
    Skipped,
    as_failure,
    as_kafka_error,
    as_source_failure,
    explain_unserialized,
)
from engine.dataflow import f_repr
from engine.errors import UserCodeError
from engine.operators._codegen import RecordCode, Value
from engine.operators._kernels import RecordKernel, StepContext
from engine.operators._shown import shown


@dataclass(frozen=True, slots=True)
class SplitKernel(RecordKernel):
    """`input`: messages go on, errors go aside."""

    on_error: OnError

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        """``if record.__class__ is KafkaError: aside.append(record); continue``."""
        record = code.var(value)
        code.nest(f"if {record}.__class__ is {code.bind('error', KafkaError)}:")
        if step.aside is not None:
            code.line(f"{code.bind('aside', step.aside)}.append({record})")
        elif self.on_error == "fail":
            code.line(f"raise {code.bind('as_failure', as_source_failure)}({record})")
        else:
            code.line(f"{code.bind('skipped', Skipped(step.step_id).error)}({record})")
        code.line("continue")
        code.leave()
        return Value(record)


@dataclass(frozen=True, slots=True)
class DeserializeKernel(RecordKernel):
    """`deserialize` and its kin: messages with new keys, values or both."""

    key: Callable[..., Any] | None
    """None to leave keys as they are."""
    value: Callable[..., Any] | None
    on_error: OnError

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        """Make a new message of the parts; whatever one of them raises is the message's end."""
        record, kind = code.var(value), code.bind("message", KafkaSourceMessage)
        check = code.bind("check", check_source_message)
        code.block(f"if {record}.__class__ is not {kind}:", f"{check}({record})")
        part = _Decoding(code, step, record, self.on_error)
        key, val = f"{record}.key", f"{record}.value"
        if self.key is not None:
            key = part.write(self.key, MessageField.KEY)
        if self.value is not None:
            val = part.write(self.value, MessageField.VALUE)
        # As `with_key_and_value` does, which would be a call per record.
        out, new = code.name("record"), code.bind("new", object.__new__)
        code.line(f"{out} = {new}({kind})")
        code.line(f"{out}.key = {key}")
        code.line(f"{out}.value = {val}")
        code.line(f"{out}._rest = {record}._rest")
        return Value(out)


class _Decoding:
    """Writes the lines that make a new key or value of a message."""

    def __init__(self, code: RecordCode, step: StepContext, record: str, on_error: OnError) -> None:
        self._code = code
        self._record = record
        self._aside = step.aside
        self._skipped = Skipped(step.step_id) if on_error == "skip" else None

    def write(self, function: Callable[..., Any], field: MessageField) -> str:
        """``try: part = function(...)``, and what else; gives the name of the new part."""
        code, raw, part = self._code, self._code.name("raw"), self._code.name(field.value)
        code.line(f"{raw} = {self._record}.{field.value}")
        if _needs_bytes_only(function, BytesDeserializer):
            decode = code.bind("decode", cast("BytesDeserializer[Any]", function).decode)
            made = f"None if {raw} is None else {decode}({raw})"
        else:
            made = f"{code.bind('function', function)}({raw}, {self._context(field)})"
        code.block("try:", f"{part} = {made}")
        self._write_handler(field)
        return part

    def _context(self, field: MessageField) -> str:
        code, record = self._code, self._record
        contexts, kind = code.bind("contexts", _Contexts(field)), code.bind("context", _context)
        made = f"{kind}({record}.topic, {code.bind('field', field)}, {record}.headers)"
        context = code.name("context")
        code.line(f"{context} = {made} if {record}.headers else {contexts}[{record}.topic]")
        return context

    def _write_handler(self, field: MessageField) -> None:
        code, ex = self._code, self._code.name("ex")
        what = f"({ex}, {self._record})"

        def bound(function: Callable[..., Any]) -> str:
            return code.bind("handle", functools.partial(function, field))

        if self._aside is not None:
            aside = code.bind("aside", self._aside)
            lines = [f"{aside}.append({bound(as_kafka_error)}{what})", "continue"]
        elif self._skipped is None:
            lines = [f"raise {bound(as_failure)}{what} from {ex}"]
        else:
            lines = [f"{bound(self._skipped.undecoded)}{what}", "continue"]
        code.block(f"except Exception as {ex}:", *lines)


@dataclass(frozen=True, slots=True)
class ToSinkKernel(RecordKernel):
    """`output`: messages that were read become such as can be written."""

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        """``if record.__class__ is not KafkaSinkMessage: record = as_sink_message(record)``."""
        return Value(_write_to_sink(code, value))


@dataclass(frozen=True, slots=True)
class SerializeKernel(RecordKernel):
    """`serialize` and its kin: messages to write, with new keys, values or both."""

    key: Callable[..., Any] | None
    """None to leave keys as they are."""
    value: Callable[..., Any] | None
    topic: str | None
    """The topic of messages that don't name one."""

    def write(self, code: RecordCode, value: Value, step: StepContext) -> Value:
        """Make a new message of the parts, with headers of its own, as serializers may add some."""
        record = _write_to_sink(code, value)
        key, val, headers = f"{record}.key", f"{record}.value", f"{record}.headers"
        functions = [f for f in (self.key, self.value) if f is not None]
        if not all(_needs_bytes_only(f, BytesSerializer) for f in functions):
            headers = code.name("headers")
            code.line(f"{headers} = [*{record}.headers]")
        if self.key is not None:
            key = self._part(code, self.key, MessageField.KEY, record, headers)
        if self.value is not None:
            val = self._part(code, self.value, MessageField.VALUE, record, headers)
        out = code.name("record")
        code.line(
            f"{out} = {code.bind('message', KafkaSinkMessage)}({key}, {val}, {record}.topic, "
            f"{headers}, {record}.partition, {record}.timestamp)"
        )
        return Value(out)

    def _part(
        self,
        code: RecordCode,
        function: Callable[..., Any],
        field: MessageField,
        record: str,
        headers: str,
    ) -> str:
        part = code.name(field.value)
        if _needs_bytes_only(function, BytesSerializer):
            encode = code.bind("encode", cast("BytesSerializer", function).encode)
            old = f"{record}.{field.value}"
            code.line(f"{part} = None if {old} is None else {encode}({old})")
            return part
        kind, topic = code.bind("context", _context), code.bind("topic", self.topic)
        context = f"{kind}({record}.topic or {topic}, {code.bind('field', field)}, {headers})"
        call = f"{code.bind('function', function)}({record}.{field.value}, {context})"
        explaining = functools.partial(explain_unserialized, field)
        ex, explain = code.name("ex"), code.bind("explain", explaining)
        code.block("try:", f"{part} = {call}")
        where = f"{ex}, {record}.topic or {topic}"
        code.block(f"except Exception as {ex}:", f"{explain}({where})", "raise")
        check = code.bind("check", functools.partial(_check_serialized, function))
        code.block(f"if {part}.__class__ is not {code.bind('bytes', bytes)}:", f"{check}({part})")
        return part


class _Contexts(dict[str | None, SerializationContext]):
    """The context of a topic's messages without headers, made once."""

    def __init__(self, field: MessageField) -> None:
        super().__init__()
        self._field = field

    def __missing__(self, topic: str | None) -> SerializationContext:
        context = self[topic] = _context(topic, self._field, None)
        return context


def _context(topic: Any, field: MessageField, headers: Any) -> SerializationContext:
    return SerializationContext(topic, field, headers)


def _needs_bytes_only(function: Any, kind: type) -> bool:
    """Whether it is one of ours, whose `__call__` no subclass has changed."""
    return isinstance(function, kind) and type(function).__call__ is kind.__call__


def _write_to_sink(code: RecordCode, value: Value) -> str:
    record, out = code.var(value), code.name("record")
    kind, change = code.bind("message", KafkaSinkMessage), code.bind("change", as_sink_message)
    code.line(f"{out} = {record} if {record}.__class__ is {kind} else {change}({record})")
    return out


def as_sink_message(record: Any) -> KafkaSinkMessage[Any, Any]:
    """A message to write, of whatever came.

    Raises:
        UserCodeError: It is no message.
    """
    if isinstance(record, KafkaSourceMessage):
        return cast("KafkaSourceMessage[Any, Any]", record).to_sink()
    if isinstance(record, KafkaSinkMessage):
        return cast("KafkaSinkMessage[Any, Any]", record)
    msg = f"what goes to Kafka must be a message; got {shown(cast('object', record))}"
    raise UserCodeError(msg, hint="make one of each record: `KafkaSinkMessage(key, value)`")


def check_source_message(record: object) -> None:
    """Refuse what was not read from Kafka.

    Raises:
        UserCodeError: It is no `KafkaSourceMessage`.
    """
    if isinstance(record, KafkaSourceMessage):
        return
    msg = f"what is deserialized must be a `KafkaSourceMessage`; got {shown(record)}"
    hint = "take `oks` of the step before" if isinstance(record, KafkaError) else ""
    raise UserCodeError(msg, hint=hint)


def _check_serialized(function: Callable[..., Any], made: object) -> None:
    if made is not None and not isinstance(made, bytes | str):
        msg = f"what {f_repr(function)} returns must be `bytes` or None; got {shown(made)}"
        raise UserCodeError(msg, function=function)
