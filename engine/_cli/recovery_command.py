"""``python -m engine.recovery COMMAND DIR ...``: show, check and mend a recovery store."""

from __future__ import annotations

import argparse
import ast
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast, get_args

from engine._cli.arguments import Parser, UsageError, count, exit_code_of
from engine._cli.exits import Exit, say
from engine._cli.output import finished
from engine._cli.recovery_output import (
    OutputError,
    counted,
    json_of,
    plain,
    write,
    write_json,
    write_savepoints,
    write_state,
    write_summary,
    write_versions,
)
from engine.errors import (
    CorruptStoreError,
    DecodeError,
    InconsistentPartitionsError,
    MissingPartitionsError,
    NoPartitionsError,
    StoreError,
    StoreFormatError,
    StoreInUseError,
)
from engine.keys import encode_key
from engine.recovery._admin import (
    StorePlace,
    UnsettledSinkError,
    drop_step,
    read_key,
    rename_step,
    save,
    states,
    summary,
)
from engine.recovery._disk import RealDisk
from engine.recovery._init import init_db_dir, new_token
from engine.recovery._layout import is_store
from engine.recovery._manifest import SINK_KIND
from engine.recovery._older_epochs import epoch_of_store
from engine.recovery._restore import (
    RestorePlan,
    SinkChoice,
    StoreCopy,
    UndecidedSinksError,
    choices_of,
    restore,
)
from engine.recovery._savepoint import SavepointCopy, read_savepoint, savepoint_names
from engine.recovery._verify import verify
from engine.recovery.store import RocksTables

_PROG = "python -m engine.recovery"
_DESCRIPTION = "Show, check and mend the recovery store of a flow that is not running."
_EPILOG = f"""\
DIR is the folder that was given to `python -m engine.run` with -r. STEP is the full id of a step:
flow.step. `{_PROG} COMMAND --help` tells more about a command.

`{_PROG} DIR N` makes an empty store in a folder that is there. That is only needed by
programs that don't use -r, which makes the store itself; N is of no importance.

exit codes:
  0    it is done, or the store is sound
  1    it could not be done, or `verify` has found faults
  2    the command line is wrong
  130  Ctrl-C
  141  nobody reads standard output any more
"""
_SHOWN_KEYS = 100

_COPY_HINT = "put the whole store back from one copy, or restore a savepoint"
_SINKS_HINT = """\
--sinks continue: go on in the targets, from where this copy was taken
          --sinks new-target: begin anew, in others
          --sinks STEP=continue: says it for one of several; see docs/recovery.md"""
_HINTS: Sequence[tuple[type[StoreError], str]] = (
    (UndecidedSinksError, _SINKS_HINT),
    (UnsettledSinkError, "if they are out, say so with --sinks-settled"),
    (DecodeError, "run this where the flow's modules can be imported: in their folder, for one"),
    (StoreInUseError, "SIGTERM lets a run finish what it has read, and then ends it"),
    (StoreFormatError, "use the engine that wrote it, or a newer one"),
    (MissingPartitionsError, _COPY_HINT),
    (InconsistentPartitionsError, _COPY_HINT),
    (CorruptStoreError, f"`{_PROG} verify DIR` names all faults; {_COPY_HINT}"),
    (NoPartitionsError, "DIR is the folder that was given to `python -m engine.run` with -r"),
)
"""What to do next, by the first that fits."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; gives the exit code.

    Args:
        argv: The arguments, without the command itself; those of this process if left out.
    """
    return exit_code_of(lambda: _execute(list(sys.argv[1:] if argv is None else argv)))


def _execute(argv: list[str]) -> int:
    if len(argv) == 2 and argv[0] not in _COMMANDS and argv[1].isdigit():
        argv = ["init", *argv]
    arguments = _parsed(argv)
    try:
        code = _COMMANDS[arguments.command](arguments)
    except OutputError as ex:
        code = unwritable(ex)
    except StoreError as ex:
        code = failed(ex, arguments)
    except OSError as ex:
        # Of a store that is only read; where one is written to, the error says what for.
        say(f"error: {ex.filename or arguments.DIR}: {ex.strerror or ex}")
        code = Exit.FAILED
    except KeyboardInterrupt:
        say("KeyboardInterrupt")
        code = Exit.INTERRUPTED
    return finished(code)


def failed(error: StoreError, arguments: argparse.Namespace) -> Exit:
    """Say why a command could not work on its store, and what to do next."""
    hint = next((text for kind, text in _HINTS if isinstance(error, kind)), None)
    makes_a_store = arguments.command in {"restore", "init"}
    if isinstance(error, NoPartitionsError) and makes_a_store:
        hint = None
    if isinstance(error, DecodeError) and getattr(arguments, "no_pickle", False):
        hint = "leave out --no-pickle if you trust whoever wrote the store"
    say(f"error: {error}" + (f"\n  hint:   {hint}" if hint else ""))
    return Exit.FAILED


def unwritable(error: OutputError) -> Exit:
    """Say that standard output can't be written, unless nobody reads it."""
    if isinstance(error.__cause__, BrokenPipeError):
        return Exit.BROKEN_PIPE
    say(f"error: standard output can't be written: {error.__cause__}")
    return Exit.FAILED


def _parsed(argv: list[str]) -> argparse.Namespace:
    parser, parsers = _parsers()
    if argv and argv[0] in parsers:
        # Else `show DIR STEP --literal KEY` would not be understood, with KEY behind an option.
        arguments = parsers[argv[0]].parse_intermixed_args(argv[1:])
        arguments.command = argv[0]
        return arguments
    return parser.parse_args(argv)


def _parsers() -> tuple[Parser, Mapping[str, argparse.ArgumentParser]]:
    """The parser of the whole, and those of the commands."""
    parser = Parser(_PROG, _DESCRIPTION, _EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, *arguments: tuple[str, str]) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=f"{text.capitalize()}.", epilog="")
        for argument, its_help in arguments:
            made.add_argument(argument, help=its_help)
        return made

    folder = ("DIR", "the store's folder")
    either = ("DIR", "the folder of a store, or of savepoints")
    add("ls", "show epochs, steps, keys and sizes", either)
    add("verify", "read and check everything; name each fault", either)
    show = add("show", "show the states of a step", folder, ("STEP", "its full id: flow.step"))
    show.add_argument("KEY", nargs="?", help="one key; all, up to --limit, if left out")
    show.add_argument(
        "--literal", action="store_true", help="KEY is a Python literal: 1, b'a', ('a', 1)"
    )
    show.add_argument(
        "--limit",
        type=_number(count),
        default=_SHOWN_KEYS,
        metavar="N",
        help="most keys shown, 100 by default",
    )
    exported = add("export", "write states as lines of JSON", folder)
    exported.add_argument("STEP", nargs="*", help="whose; of all steps if left out")
    for reader in (show, exported):
        reader.add_argument(
            "--no-pickle",
            action="store_true",
            help="refuse states of users' own classes: reading those runs code",
        )
    old_new = (("OLD", "the id in the store"), ("NEW", "the id in the flow"))
    add("rename-step", "give a stored step the id that it has in the flow now", folder, *old_new)
    drop = add("drop-step", "forget a stored step and its states", folder, ("STEP", "its full id"))
    drop.add_argument(
        "--sinks-settled",
        action="store_true",
        help="what it kept, as a sink, for the last epoch is known to be out",
    )
    _add_savepoint_commands(add)
    add("init", "make an empty store", folder, ("N", "of no importance, at least 1"))
    return parser, commands.choices


def _add_savepoint_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    folder, target = ("DIR", "the store's folder"), ("TARGET", "the folder of savepoints")
    saved = add("savepoint", "copy the whole store at its last epoch", folder, target)
    saved.add_argument("--name", help="of the savepoint; epoch-N if left out")
    old = ("FROM", "the folder of savepoints, or of a store")
    new = ("DIR", "the new store's folder, empty or not there yet")
    restored = add("restore", "make a new store of a savepoint, or of an older epoch", old, new)
    which = restored.add_mutually_exclusive_group()
    which.add_argument("--name", help="of the savepoint; the one of the highest epoch if left out")
    which.add_argument(
        "--epoch", type=_number(count), metavar="N", help="this one; the last if left out"
    )
    restored.add_argument(
        "--sinks",
        action="append",
        default=[],
        metavar="[STEP=]CHOICE",
        help="what exactly-once sinks do: `continue` at their targets, or write to a `new-target`",
    )


def _number(parse: Callable[[str], int]) -> Callable[[str], int]:
    def parsed(text: str) -> int:
        try:
            return parse(text)
        except ValueError as ex:
            msg = f"{text!r} {ex}"
            raise argparse.ArgumentTypeError(msg) from None

    return parsed


def _place(arguments: argparse.Namespace) -> StorePlace:
    return StorePlace(
        RealDisk(),
        RocksTables(),
        Path(arguments.DIR),
        new_token(),
        time.time(),
        allow_pickle=not getattr(arguments, "no_pickle", False),
    )


def _ls(arguments: argparse.Namespace) -> int:
    place = _place(arguments)
    if names := _savepoints_in(place):
        write_savepoints((name, read_savepoint(place.disk, place.root, name)) for name in names)
    else:
        write_summary(summary(place))
    return Exit.DONE


def _savepoints_in(place: StorePlace) -> list[str]:
    """The savepoints in the folder; none if it is a store."""
    if is_store(place.disk, place.root):
        return []
    return savepoint_names(place.disk, place.root)


def _verify(arguments: argparse.Namespace) -> int:
    place = _place(arguments)
    if names := _savepoints_in(place):
        return _verify_savepoints(place, names)
    report = verify(place.disk, place.tables, place.root)
    for fault in report.faults:
        write(f"fault: {fault}")
    if report.sound:
        epoch = report.manifest.epoch if report.manifest else 0
        write(f"sound: epoch {epoch}, {counted(report.rows.total(), 'key')}")
        write_versions(report.rows)
        return Exit.DONE
    write(counted(len(report.faults), "fault"))
    return Exit.FAILED


def _verify_savepoints(place: StorePlace, names: list[str]) -> int:
    code = Exit.DONE
    for name in names:
        try:
            copy = SavepointCopy(place.disk, place.root, name)
            copy.check()
        except CorruptStoreError as ex:
            write(f"fault: savepoint {plain(name)}: {ex}")
            code = Exit.FAILED
        else:
            write(f"sound: savepoint {plain(name)}, epoch {copy.manifest.epoch}")
    return code


def _show(arguments: argparse.Namespace) -> int:
    place = _place(arguments)
    if arguments.KEY is None:
        with closing(cast("Any", states(place, [arguments.STEP]))) as records:
            for number, record in enumerate(records):
                if number == arguments.limit:
                    say(f"only {counted(arguments.limit, 'state')} shown; --limit N shows more")
                    break
                write_state(record)
        return Exit.DONE
    key = _key(arguments)
    record = read_key(place, arguments.STEP, key)
    if record is None:
        hint = "" if arguments.literal else "; keys that are no texts: --literal 1, --literal b'a'"
        say(f"error: step {arguments.STEP!r} has no state of key {key!r}{hint}")
        return Exit.FAILED
    write_state(record)
    return Exit.DONE


def _key(arguments: argparse.Namespace) -> Any:
    if not arguments.literal:
        return arguments.KEY
    try:
        key = ast.literal_eval(arguments.KEY)
        encode_key(key)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as ex:
        msg = f"{arguments.KEY!r} is no key: {ex}"
        raise UsageError(msg) from None
    return key


def _export(arguments: argparse.Namespace) -> int:
    with closing(cast("Any", states(_place(arguments), arguments.STEP))) as records:
        for record in records:
            write_json(json_of(record))
    return Exit.DONE


def _rename_step(arguments: argparse.Namespace) -> int:
    rename_step(_place(arguments), arguments.OLD, arguments.NEW)
    write(f"{plain(arguments.OLD)} is {plain(arguments.NEW)} now")
    return Exit.DONE


def _drop_step(arguments: argparse.Namespace) -> int:
    entry = drop_step(_place(arguments), arguments.STEP, sinks_settled=arguments.sinks_settled)
    then = {
        "input": "a source of this id reads from its beginning",
        SINK_KIND: "a sink of this id begins its output anew",
    }.get(entry.kind, "a step of this id starts empty")
    write(f"{plain(arguments.STEP)} is dropped: {then}")
    return Exit.DONE


def _savepoint(arguments: argparse.Namespace) -> int:
    path, savepoint = save(_place(arguments), Path(arguments.TARGET), arguments.name)
    epoch, target = savepoint.manifest.epoch, path.parent.parent
    write(f"savepoint {plain(path.stem)} of epoch {epoch} is in {target}")
    return Exit.DONE


def _restore(arguments: argparse.Namespace) -> int:
    place, source = _place(arguments), Path(arguments.FROM)
    choice, by_step = _sink_choices(arguments.sinks)
    plan = RestorePlan(place.token, place.time_s, choice, by_step)
    if not is_store(place.disk, source):
        name = arguments.name or _name_of(place, source, arguments.epoch)
        return _restore_copy(place, SavepointCopy(place.disk, source, name), plan)
    if arguments.name is not None:
        msg = f"--name is for savepoints, and {source} is a store"
        raise UsageError(msg)
    opened = epoch_of_store(place.disk, place.tables, source, new_token(), arguments.epoch)
    with opened as copy:
        return _restore_copy(place, copy, plan)


def _restore_copy(place: StorePlace, copy: StoreCopy, plan: RestorePlan) -> int:
    manifest = restore(place.disk, place.tables, place.root, copy, plan)
    what = f"epoch {manifest.epoch} of flow {plain(manifest.flow_id)}"
    write(f"{place.root} holds {what}, as store {manifest.store_id}")
    for step_id, chosen in choices_of(copy, plan).items():
        write(f"{plain(step_id)} {_CHOICES[chosen]}")
    return Exit.DONE


_CHOICES: Mapping[SinkChoice, str] = {
    "continue": "goes on in its target; the first store must not run again",
    "new-target": "begins anew: give it another target, or it overwrites what is there",
}


def _sink_choices(texts: Sequence[str]) -> tuple[SinkChoice | None, dict[str, SinkChoice]]:
    """What all sinks do, and what some do in place of that."""
    for_all: SinkChoice | None = None
    by_step: dict[str, SinkChoice] = {}
    for text in texts:
        step_id, _, choice = text.rpartition("=")
        if choice not in get_args(SinkChoice):
            msg = f"--sinks {text}: must be `continue` or `new-target`, or STEP= and one of them"
            raise UsageError(msg)
        if step_id:
            by_step[step_id] = cast("SinkChoice", choice)
        else:
            for_all = cast("SinkChoice", choice)
    return for_all, by_step


def _name_of(place: StorePlace, target: Path, epoch: int | None) -> str:
    """The savepoint of an epoch, or of the highest one."""
    names = savepoint_names(place.disk, target)
    epochs = {name: read_savepoint(place.disk, target, name).manifest.epoch for name in names}
    fitting = [name for name in names if epoch in (None, epochs[name])]
    if not fitting:
        there = ", ".join(f"{name} (epoch {epochs[name]})" for name in names) or "none"
        msg = f"there is no such savepoint in {target}; there: {there}"
        raise StoreError(msg)
    return max(fitting, key=lambda name: epochs[name])


def _init(arguments: argparse.Namespace) -> int:
    try:
        number = count(arguments.N)
    except ValueError as ex:
        msg = f"N {ex}; got {arguments.N!r}"
        raise UsageError(msg) from None
    init_db_dir(arguments.DIR, number)
    return Exit.DONE


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "ls": _ls,
    "verify": _verify,
    "show": _show,
    "export": _export,
    "rename-step": _rename_step,
    "drop-step": _drop_step,
    "savepoint": _savepoint,
    "restore": _restore,
    "init": _init,
}
