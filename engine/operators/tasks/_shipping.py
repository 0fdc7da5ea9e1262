"""How a function gets to another process: by the name it has in its module, or by its code.

Pickle writes the name, and sees whether the module has that very function there. What has no such
name (a lambda, a function in a function, what was typed at a prompt) goes by its code, with
cloudpickle, if that is installed. Called as the flow is built, so that a mistake is told there.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Callable
from typing import Any

from engine.dataflow._callable_name import f_repr


def shipped(fn: Callable[[Any], Any], step_id: str) -> bytes:
    """A function as bytes that `pickle.loads` of another process can read.

    Raises:
        TypeError: It has no name to import it by, and no cloudpickle is there to send its code.
    """
    try:
        by_name = pickle.dumps(fn, pickle.HIGHEST_PROTOCOL)
    except Exception as ex:  # noqa: BLE001 - whatever objects that it holds may raise
        return _by_code(fn, step_id, ex)
    if b"__main__" in by_name and not _main_can_be_imported():
        return _by_code(fn, step_id, None)
    return by_name


def _main_can_be_imported() -> bool:
    main = sys.modules["__main__"]
    return getattr(main, "__spec__", None) is not None or hasattr(main, "__file__")


def _by_code(fn: Callable[[Any], Any], step_id: str, cause: Exception | None) -> bytes:
    try:
        cloudpickle: Any = importlib.import_module("cloudpickle")
    except ImportError:
        msg = (
            f"step {step_id!r}: {f_repr(fn)} can't be sent to other processes, which import it by "
            "name: define it at the top of a module, or install cloudpickle (an extra of this name)"
        )
        raise TypeError(msg) from cause
    try:
        code: bytes = cloudpickle.dumps(fn, pickle.HIGHEST_PROTOCOL)
    except Exception as ex:  # noqa: BLE001 - whatever objects that it holds may raise
        why = f"{type(ex).__name__}: {ex}"
        msg = f"step {step_id!r}: {f_repr(fn)} can't be sent to other processes: {why}"
        # Without the cause, whose message doesn't name the step.
        raise TypeError(msg) from None
    return code
