"""Closing workers at the end of a run, whatever ended it."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence

from engine.connectors import AbortExecution
from engine.runtime._failure import name_of
from engine.runtime._worker import Worker


@contextlib.contextmanager
def closing(workers: Sequence[Worker]) -> Generator[None]:
    """Close all workers at the end, however it comes about.

    An error in closing is raised, or becomes a note of the error that ended the run.
    """
    try:
        yield
    except AbortExecution:
        _raise_all(_close(workers))
        raise
    except BaseException as ex:
        _note_all(ex, _close(workers))
        raise
    _raise_all(_close(workers))


def _close(workers: Sequence[Worker]) -> list[Exception]:
    return [error for worker in workers for error in worker.close()]


def _raise_all(errors: list[Exception]) -> None:
    if errors:
        _note_all(errors[0], errors[1:])
        raise errors[0]


def _note_all(ex: BaseException, errors: list[Exception]) -> None:
    for error in errors:
        ex.add_note(f"and then, {error.__notes__[-1]}: {name_of(error)}")
