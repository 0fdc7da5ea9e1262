"""What to do about an error, where the engine can tell. Called by `engine._cli.report`."""

from __future__ import annotations

import difflib
import sys
from types import ModuleType

from engine._cli.frames import raised_by_engine
from engine.errors import InternalError


def hint_for(error: BaseException, root: BaseException) -> str:
    """One line of advice, or nothing.

    Args:
        error: The error that ended the run or the start.
        root: The error in its chain that is to blame.
    """
    for ex in (root, error):
        own = getattr(ex, "hint", "")
        if isinstance(own, str) and own:
            return own
    if isinstance(root, InternalError | AssertionError) and raised_by_engine(root.__traceback__):
        return "this is a bug of the engine: please report it, with what --verbose prints"
    if isinstance(root, ModuleNotFoundError):
        return _missing_module(root.name or "")
    if isinstance(root, ImportError) and "relative import" in str(root):
        return "run a file that is part of a package as `package.module:flow`"
    if isinstance(root, AttributeError | ImportError):
        return _misspelt(root)
    return ""


def _missing_module(name: str) -> str:
    if name.partition(".")[0] == "bytewax":
        return "replace `bytewax.` by `engine.` in the imports"
    return f"is it installed for this Python, {sys.executable}?"


def _misspelt(error: AttributeError | ImportError) -> str:
    """A module's name that is close to the one asked for."""
    if isinstance(error, AttributeError):
        module, wanted = error.obj, error.name
    else:
        module, wanted = sys.modules.get(error.name or ""), getattr(error, "name_from", None)
    if not isinstance(module, ModuleType) or not isinstance(wanted, str):
        return ""
    close = difflib.get_close_matches(wanted, vars(module), n=1)
    return f"did you mean `{close[0]}`?" if close else ""
