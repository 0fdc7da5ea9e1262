"""Every error the engine raises, in one tree, a class per who is at fault.

    EngineError
    ├── EngineRuntimeError (RuntimeError)   a run ended because of an error; its cause says which
    ├── UserCodeError (TypeError)           a user's function gave back what its step can't take
    ├── FlowError (ValueError)              the graph can't run: no input, no output
    ├── ImportStringError (ValueError)      the command line names no flow
    ├── ConnectorError (RuntimeError)       a source or sink broke its contract
    ├── DeserializationError (ValueError)   a message from outside isn't what it should be
    ├── ClusterError (RuntimeError)         a process can't be part of its cluster
    ├── UnavailableError (ConnectionError)  a source can't reach the outside right now
    ├── LinkError (ConnectionError)         a connection between two workers is lost
    ├── WorkerDiedError (RuntimeError)      the process of a worker has ended without a word
    ├── WorkerProcessError (RuntimeError)   a process that ran a task has ended without a word
    ├── SubtaskCancelledError (RuntimeError)  a subtask was given up, as another one had failed
    ├── RemoteError (RuntimeError)          what a task raised in its process can't be sent here
    ├── AddressError (OSError)              a run can't serve metrics or answers at its address
    ├── StoreError                          the recovery store can't be used, or not like this
    │   ├── NoPartitionsError (FileNotFoundError)      there is no store in the folder
    │   ├── MissingPartitionsError (FileNotFoundError) a part of the store is gone
    │   ├── InconsistentPartitionsError (ValueError)   parts of the store are not of one age
    │   ├── CorruptStoreError           a file of the store is damaged
    │   ├── StoreInUseError             another process has the store open
    │   ├── StoreFormatError            a newer engine wrote the store
    │   ├── ForeignStoreError           the store belongs to another flow
    │   ├── FencedError                 a newer generation of this job has taken over (sinks
    │   │                               raise it too: it is a ConnectorError as well)
    │   ├── StoreWriteError             the disk refused a write: full, broken, no permission
    │   ├── EncodeError (TypeError)     a state can't be written
    │   └── DecodeError                 a state can't be read: its class has moved, or is refused
    └── InternalError (RuntimeError)        the engine broke its own rules: report it

Mistakes in building a graph (a bad step id, a wrong stream) stay plain `TypeError` and
`ValueError`, raised where the mistake stands in the user's module.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ClusterError",
    "ConnectorError",
    "CorruptStoreError",
    "DecodeError",
    "DeserializationError",
    "EncodeError",
    "EngineError",
    "EngineRuntimeError",
    "FencedError",
    "FlowError",
    "ForeignStoreError",
    "ImportStringError",
    "InconsistentPartitionsError",
    "InternalError",
    "LinkError",
    "MissingPartitionsError",
    "NoPartitionsError",
    "RemoteError",
    "StoreError",
    "StoreFormatError",
    "StoreInUseError",
    "StoreWriteError",
    "SubtaskCancelledError",
    "UnavailableError",
    "UserCodeError",
    "WorkerDiedError",
    "WorkerProcessError",
]


class EngineError(Exception):
    """The base of all errors of the engine."""


class EngineRuntimeError(EngineError, RuntimeError):
    """A run ended because of an error.

    The chain of `__cause__` ends in the exception that was raised first, by the user's own
    function where that was at fault.

    Attributes:
        step_id: The step that failed, fully qualified, or None where no step is to blame.
        key: The key that was worked on, if the step is keyed and the key is known.
        record: The record that was worked on, if it is known.
        has_record: Whether `record` is known (it may be None).
        doing: What the step was about if not working on records: "opening its source".
        hint: What to do about it, where the cause doesn't say.
    """

    hint = ""

    def __init__(
        self,
        message: str,
        *,
        step_id: str | None = None,
        key: object = None,
        record: object = None,
        has_record: bool = False,
        doing: str = "",
    ) -> None:
        super().__init__(message)
        self.step_id = step_id
        self.key: Any = key
        self.record: Any = record
        self.has_record = has_record
        self.doing = doing


class UserCodeError(EngineError, TypeError):
    """A user's function gave back something that its step can't work with.

    Attributes:
        function: The function that is at fault, or None.
        hint: What to do about it.
    """

    def __init__(self, message: str, *, function: object = None, hint: str = "") -> None:
        super().__init__(message)
        self.function: Any = function
        self.hint = hint


class FlowError(EngineError, ValueError):
    """The graph as a whole can't be run."""


class ImportStringError(EngineError, ValueError):
    """The command line names a module, file or flow that isn't there or isn't a flow.

    Where the user's own module or factory raised, that exception is the `__cause__`.

    Attributes:
        hint: What to do about it.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConnectorError(EngineError, RuntimeError):
    """A source or sink did not keep its contract."""


class DeserializationError(EngineError, ValueError):
    """A message that was read can't be made into what it should be; the cause says why not.

    Attributes:
        topic: The topic it was read from, or None where that isn't known.
        partition: The partition.
        offset: Its place in the partition.
        hint: What to do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        topic: str | None,
        partition: int | None,
        offset: int | None,
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.hint = hint


class UnavailableError(EngineError, ConnectionError):
    """A source can't reach the outside right now: it is asked again, for so long as the run says.

    Sources raise it in `list_parts`, `build`, `build_part`, `build_new_part` and `next_batch`. All
    of them must be fine to call again, as if the call had not been made.
    """


class ClusterError(EngineError, RuntimeError):
    """A process can't be part of its cluster: an address, secret, certificate or flow is wrong."""


class LinkError(EngineError, ConnectionError):
    """A connection between two workers is lost, or what came over it makes no sense."""


class WorkerDiedError(EngineError, RuntimeError):
    """The process of a worker has ended without a word."""


class WorkerProcessError(EngineError, RuntimeError):
    """A process that ran a task ended, of the task or with it.

    Attributes:
        exit_code: What it ended with; negative, the number of the signal that killed it; None if
            that isn't known.
    """

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class SubtaskCancelledError(EngineError, RuntimeError):
    """A subtask has no result, as it was given up.

    One that it was gathered with had failed (its `__cause__`). Or the task that waits for it was
    given up itself, because it took too long or for the same reason.
    """


class RemoteError(EngineError, RuntimeError):
    """What a task raised in another process, where the exception itself can't be sent from there.

    As the `__cause__` of an exception that could be sent it says where that was raised.

    Attributes:
        type_name: The exception's class, as ``module.Class``.
        message: Its text.
        traceback_text: Where it was raised, with its causes, as Python prints it.
    """

    def __init__(self, type_name: str, message: str, traceback_text: str) -> None:
        super().__init__(f"{type_name}: {message}\n\n{traceback_text.rstrip()}")
        self.type_name = type_name
        self.message = message
        self.traceback_text = traceback_text

    def __reduce__(self) -> tuple[Any, ...]:
        """How to pickle it: its only argument in `args` is the text made of all three."""
        return type(self), (self.type_name, self.message, self.traceback_text)


class AddressError(EngineError, OSError):
    """A run can't serve metrics or answers where it is to: the address is taken, or not its own."""


class StoreError(EngineError):
    """The recovery store can't be used, or not in the way that was asked for."""


class NoPartitionsError(StoreError, FileNotFoundError):
    """The folder holds no recovery store."""


class MissingPartitionsError(StoreError, FileNotFoundError):
    """The store lacks a part that it must have: a worker's folder, or all manifests."""


class InconsistentPartitionsError(StoreError, ValueError):
    """Parts of the store do not belong together: one is older or newer than the manifest says.

    A part that was copied back from a backup alone looks like this. Put all of the store back.
    """


class CorruptStoreError(StoreError):
    """A file of the store does not hold what the engine wrote there.

    Attributes:
        path: The file or folder.
        what: What is wrong with it.
    """

    def __init__(self, path: object, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.path = str(path)
        self.what = what


class StoreInUseError(StoreError):
    """Another process has the store open."""


class StoreFormatError(StoreError):
    """The store was written by a newer engine, in a format that this one doesn't know."""


class ForeignStoreError(StoreError):
    """The store belongs to another flow."""


class FencedError(StoreError, ConnectorError):
    """A newer generation of the job has taken over, so this one must stop.

    Raised by the store, and by sinks in `begin` and `publish` with nothing changed at the target.
    Starting again would only lock out the newer run in turn.
    """


class StoreWriteError(StoreError):
    """The disk refused to write; its `OSError` is the cause. The last durable epoch is intact.

    Attributes:
        path: The file or folder.
    """

    def __init__(self, path: object, doing: str) -> None:
        super().__init__(f"{path}: {doing}")
        self.path = str(path)


class EncodeError(StoreError, TypeError):
    """A state holds something that can't be written.

    Attributes:
        step_id: The step whose state it is.
        key: The key it belongs to.
        where: The way to the part that is at fault, such as ``state.items[3].lock``.
    """

    def __init__(self, message: str, *, step_id: str, key: object, where: str) -> None:
        super().__init__(message)
        self.step_id = step_id
        self.key: Any = key
        self.where = where


class DecodeError(StoreError):
    """A state was written in a way that can't be read here.

    Attributes:
        step_id: The step whose state it is.
        key: The key it belongs to, or None.
        class_path: The class that is missing or refused, as ``module.Class``, or None.
    """

    def __init__(
        self, message: str, *, step_id: str, key: object = None, class_path: str | None = None
    ) -> None:
        super().__init__(message)
        self.step_id = step_id
        self.key: Any = key
        self.class_path = class_path


class InternalError(EngineError, RuntimeError):
    """The engine broke one of its own rules. Not the user's fault: worth a report."""
