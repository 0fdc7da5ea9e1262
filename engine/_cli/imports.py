"""From an import string on a command line to the `Dataflow` that it names.

Imports the user's module, finds or makes the flow in it, and says what is wrong where there is
none, with the names that come near. Called by `engine.run` and `engine.visualize`.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from engine._cli.import_strings import ImportString, parse_expression, parse_import_string
from engine.dataflow import Dataflow
from engine.errors import ImportStringError

DEFAULT_NAME = "flow"
_CANT_BE_IMPORTED = "{} can't be imported"


def load_flow(text: str) -> Dataflow:
    """Import what an import string names, and give its flow.

    Raises:
        ImportStringError: There is no such module, file or flow; or the module, or the function
            that makes the flow, raised an exception, which is the cause.
    """
    parts = parse_import_string(text)
    module = _module_from_file(parts.module) if parts.is_file else _module(parts.module)
    if not parts.expression:
        return _default_flow(module, parts.module)
    return _named_flow(module, parts)


# The module


def _module(name: str) -> ModuleType:
    _put_on_path(Path.cwd(), first=False)
    failed = ImportStringError(_CANT_BE_IMPORTED.format(f"module {name!r}"))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as ex:
        if ex.name is not None and f"{name}.".startswith(f"{ex.name}."):
            raise _unknown_module(name, ex.name) from None
        raise failed from ex
    except (Exception, SystemExit) as ex:
        # Anything may go wrong in a user's module, and all of it is reported alike.
        raise failed from ex


def _module_from_file(path_given: str) -> ModuleType:
    path = Path(path_given)
    # Unlike the methods of `Path`, this doesn't raise where a folder above can't be read.
    if not os.path.isfile(path):  # noqa: PTH113
        raise _unknown_file(path)
    _put_on_path(path.resolve().parent, first=True)
    # A file may be called like a module that is loaded already; that one must stay what it is.
    name = path.stem if path.stem not in sys.modules else f"_flow_file_{path.stem}"
    loader = importlib.machinery.SourceFileLoader(name, str(path.absolute()))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None  # noqa: S101 - only a built-in module's loader gives none
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException as ex:
        del sys.modules[name]
        if not isinstance(ex, Exception | SystemExit):
            raise
        raise ImportStringError(_CANT_BE_IMPORTED.format(f"file {path_given!r}")) from ex
    return module


def _put_on_path(folder: Path, *, first: bool) -> None:
    text = str(folder)
    if first:
        sys.path.insert(0, text)
    elif text not in sys.path and "" not in sys.path:
        # As `python -m` does, for where Python was told not to or was started otherwise.
        sys.path.insert(0, text)


def _unknown_module(name: str, missing: str) -> ImportStringError:
    parent, _, last = missing.rpartition(".")
    msg = f"there is no module {missing!r}"
    if missing != name:
        msg = f"{msg}, of which {name!r} would be a part"
    above = sys.modules.get(parent)
    if above is not None and isinstance(getattr(above, last, None), Dataflow):
        return ImportStringError(msg, hint=f"did you mean `{parent}:{last}`?")
    folders = _folders_of(parent)
    close = next(filter(None, (_near(last, _modules_in(folder)) for folder in folders)), None)
    if close is not None:
        close = [f"{parent}.{near}" if parent else near for near in close]
        return ImportStringError(msg, hint=f"did you mean {_or(close)}?")
    if parent:
        return ImportStringError(msg)
    return ImportStringError(msg, hint=f"modules are looked for in {Path.cwd()} and in sys.path")


def _folders_of(parent: str) -> list[str]:
    """Where a module was looked for, the most likely place first."""
    if not parent:
        return [str(Path.cwd()), *sys.path]
    return list(getattr(sys.modules.get(parent), "__path__", []))


def _modules_in(folder: str) -> list[str]:
    import pkgutil  # noqa: PLC0415 - needed only after a mistake

    return [info.name for info in pkgutil.iter_modules([folder]) if info.name[:2] != "__"]


def _unknown_file(path: Path) -> ImportStringError:
    if os.path.isdir(path):  # noqa: PTH112 - as above
        return ImportStringError(f"{str(path)!r} is a folder, not a file")
    msg = f"there is no file {str(path)!r}"
    with_suffix = path.with_name(f"{path.name}.py")
    if os.path.isfile(with_suffix):  # noqa: PTH113 - as above
        return ImportStringError(msg, hint=f"did you mean `{with_suffix}`?")
    try:
        beside = os.listdir(path.parent)  # noqa: PTH208 - names are wanted
    except OSError:
        beside = []
    close = _near(path.name, [name for name in beside if name.endswith(".py")])
    hint = f"did you mean {_or([str(path.with_name(name)) for name in close])}?" if close else ""
    return ImportStringError(msg, hint=hint)


# The flow in it


def flows_in(module: ModuleType) -> dict[str, Dataflow]:
    """The flows among a module's variables, each by its first name."""
    found: dict[str, Dataflow] = {}
    for name, value in vars(module).items():
        if isinstance(value, Dataflow) and all(value is not flow for flow in found.values()):
            found[name] = value
    return found


def _default_flow(module: ModuleType, shown: str) -> Dataflow:
    value = getattr(module, DEFAULT_NAME, None)
    if isinstance(value, Dataflow):
        return value
    flows = flows_in(module)
    if len(flows) == 1:
        return next(iter(flows.values()))
    if flows:
        msg = f"{shown!r} has several flows and none is called {DEFAULT_NAME!r}"
        raise ImportStringError(msg, hint=f"choose one: {_or(_choices(shown, list(flows)))}")
    if isinstance(value, FunctionType):
        return _called(value, [], {}, f"{shown}:{DEFAULT_NAME}")
    if value is not None:
        return _checked(value, f"{shown}:{DEFAULT_NAME}")
    msg = f"there is no flow in {shown!r}{_file_of(module)}"
    hint = "a flow is a `Dataflow` in a variable of the module, or what a function of it returns"
    raise ImportStringError(msg, hint=hint)


def _named_flow(module: ModuleType, parts: ImportString) -> Dataflow:
    name, args, kwargs = parse_expression(parts.expression)
    shown = f"{parts.module}:{parts.expression}"
    if not hasattr(module, name):
        raise _unknown_name(module, parts.module, name)
    value = getattr(module, name)
    if args is not None:
        if not callable(value):
            msg = f"{parts.module}:{name} can't be called; it is {_a(value)}"
            raise ImportStringError(msg)
        return _called(value, args, kwargs, shown)
    if isinstance(value, FunctionType):
        return _called(value, [], {}, shown)
    return _checked(value, shown)


def _called(function: Any, args: list[Any], kwargs: dict[str, Any], shown: str) -> Dataflow:
    try:
        value = function(*args, **kwargs)
    except (Exception, SystemExit) as ex:
        # As with a module: whatever a user's function raises is reported alike.
        msg = f"the function of {shown!r} raised an exception"
        raise ImportStringError(msg) from ex
    if not isinstance(value, Dataflow):
        msg = f"what the function of {shown!r} returns is not a `Dataflow`; it is {_a(value)}"
        raise ImportStringError(msg, hint="return the flow")
    return value


def _checked(value: Any, shown: str) -> Dataflow:
    if isinstance(value, Dataflow):
        return value
    msg = f"{shown!r} is not a `Dataflow`; it is {_a(value)}"
    raise ImportStringError(msg)


def _unknown_name(module: ModuleType, shown: str, name: str) -> ImportStringError:
    msg = f"{shown!r} has no {name!r}"
    flows = list(flows_in(module))
    close = _near(name, flows)
    functions = [n for n, value in vars(module).items() if isinstance(value, FunctionType)]
    if not flows:
        near_functions = _near(name, functions)
        if near_functions:
            return ImportStringError(msg, hint=f"did you mean `{shown}:{near_functions[0]}()`?")
        return ImportStringError(f"{msg}, and no flows at all{_file_of(module)}")
    ordered = [*close, *(flow for flow in flows if flow not in close)]
    return ImportStringError(msg, hint=f"its flows are {_or(_choices(shown, ordered), 'and')}")


# Words


def _choices(module: str, names: list[str]) -> list[str]:
    return [f"{module}:{name}" for name in names]


def _file_of(module: ModuleType) -> str:
    """Which file it is: with a common name, perhaps not the one that was meant."""
    return f" ({module.__file__})" if getattr(module, "__file__", None) else ""


def _a(value: object) -> str:
    return f"an object of type `{type(value).__name__}`"


def _or(names: list[str], word: str = "or") -> str:
    quoted = [f"`{name}`" for name in names]
    return f" {word} ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))


def _near(name: str, names: list[str]) -> list[str]:
    import difflib  # noqa: PLC0415 - needed only after a mistake

    return difflib.get_close_matches(name, dict.fromkeys(names), n=3, cutoff=0.7)
