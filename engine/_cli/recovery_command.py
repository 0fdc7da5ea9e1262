"""``python -m engine.recovery COMMAND DIR ...``: show, check and mend a recovery store."""

from __future__ import annotations

import argparse
import ast
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine._cli.arguments import Parser, UsageError, exit_code_of
from engine._cli.exits import Exit, say
from engine._cli.output import finished
from engine.errors import StoreError
from engine.keys import encode_key
from engine.recovery._admin import (
    StorePlace,
    drop_step,
    export,
    read_key,
    rename_step,
    save,
    shown_time,
    summary,
)
from engine.recovery._disk import RealDisk
from engine.recovery._init import init_db_dir, new_token
from engine.recovery._savepoint import (
    RestorePlan,
    read_savepoint,
    restore,
    savepoint_names,
)
from engine.recovery._verify import verify
from engine.recovery.store import RocksTables

_PROG = "python -m engine.recovery"
_DESCRIPTION = "Show, check and mend the recovery store of a flow that is not running."
_EPILOG = """\
`python -m engine.recovery DIR N` makes an empty store in a folder that is there. That is only
needed by programs that don't use -r, which makes the store itself; N is of no importance.
"""
_SHOWN_KEYS = 100


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; gives the exit code.

    Args:
        argv: The arguments, without the command itself; those of this process if left out.
    """
    return exit_code_of(lambda: _execute(list(sys.argv[1:] if argv is None else argv)))


def _execute(argv: list[str]) -> int:
    if len(argv) == 2 and argv[0] not in _COMMANDS and argv[1].isdigit():
        argv = ["init", *argv]
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = _COMMANDS[arguments.command]
    try:
        code = command(arguments)
    except BrokenPipeError:
        return finished(Exit.BROKEN_PIPE)
    except StoreError as ex:
        say(f"error: {ex}")
        code = Exit.FAILED
    except OSError as ex:
        # No permission, for example, where a store is only read.
        say(f"error: {ex}")
        code = Exit.FAILED
    return finished(code)


def _parser() -> Parser:
    parser = Parser(_PROG, _DESCRIPTION, _EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, *arguments: tuple[str, str]) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, epilog="")
        for argument, its_help in arguments:
            made.add_argument(argument, help=its_help)
        return made

    folder = ("DIR", "the store's folder")
    add("ls", "show epochs, steps, keys and sizes", folder)
    add("verify", "read and check everything; name each fault", folder)
    show = add("show", "show the states of a step", folder, ("STEP", "its full id: flow.step"))
    show.add_argument("KEY", nargs="?", help="one key; all, up to --limit, if left out")
    show.add_argument(
        "--literal", action="store_true", help="KEY is a Python literal: 1, b'a', ('a', 1)"
    )
    show.add_argument(
        "--limit", type=int, default=_SHOWN_KEYS, help="most keys shown, 100 by default"
    )
    exported = add("export", "write states as lines of JSON to standard output", folder)
    exported.add_argument("STEP", nargs="*", help="whose; of all steps if left out")
    for reader in (show, exported):
        reader.add_argument(
            "--no-pickle",
            action="store_true",
            help="refuse states of users' own classes: reading those runs code",
        )
    old_new = (("OLD", "the id in the store"), ("NEW", "the id in the flow"))
    add("rename-step", "give a stored step the id that it has in the flow now", folder, *old_new)
    add("drop-step", "forget a stored step and delete its states", folder, ("STEP", "its full id"))
    target = ("TARGET", "the folder of savepoints")
    saved = add("savepoint", "copy the whole store at its last epoch", folder, target)
    saved.add_argument("--name", help="of the savepoint; epoch-N if left out")
    saved.add_argument(
        "--sinks-settled",
        action="store_true",
        help="what exactly-once sinks kept for the last epoch is known to be out",
    )
    new = ("DIR", "the new store's folder, empty or not there yet")
    restored = add("restore", "make a new store of a savepoint", target, new)
    which = restored.add_mutually_exclusive_group()
    which.add_argument("--name", help="of the savepoint; the one of the highest epoch if left out")
    which.add_argument("--epoch", type=int, help="the savepoint of this epoch")
    add("init", "make an empty store", folder, ("N", "of no importance, at least 1"))
    return parser


def _place(arguments: argparse.Namespace) -> StorePlace:
    return StorePlace(
        RealDisk(),
        RocksTables(),
        Path(arguments.DIR),
        new_token(),
        time.time(),
        allow_pickle=not getattr(arguments, "no_pickle", False),
    )


def _write(line: str) -> None:
    sys.stdout.write(line.encode(errors="backslashreplace").decode() + "\n")


def _ls(arguments: argparse.Namespace) -> int:
    found = summary(_place(arguments))
    newest = found.manifests[-1]
    _write(f"flow {newest.flow_id!r}, store {newest.store_id}")
    _write(
        f"epoch {newest.epoch}, generation {newest.generation}, workers {newest.workers}, "
        f"written {shown_time(int(newest.time_s * 1e6))}"
    )
    _write(f"tables {found.table_bytes:,} bytes, logs {found.log_bytes:,} bytes")
    for manifest in found.manifests:
        _write(
            f"manifest {manifest.seq}: {manifest.kind}, generation {manifest.generation}, epoch "
            f"{manifest.epoch}, {shown_time(int(manifest.time_s * 1e6))}"
        )
    for step_id, entry in sorted(newest.steps.items()):
        holds = f"{found.keys[step_id]:,} keys"
        if found.partitions[step_id]:
            holds += f", {found.partitions[step_id]} partitions"
        _write(f"step {step_id}: {entry.kind}, {holds}")
    return Exit.DONE


def _verify(arguments: argparse.Namespace) -> int:
    place = _place(arguments)
    report = verify(place.disk, place.tables, place.root)
    for fault in report.faults:
        _write(f"fault: {fault}")
    if report.sound:
        epoch = report.manifest.epoch if report.manifest else 0
        _write(f"sound: epoch {epoch}, {report.rows.total():,} keys")
        return Exit.DONE
    _write(f"{len(report.faults)} faults")
    return Exit.FAILED


def _show(arguments: argparse.Namespace) -> int:
    place = _place(arguments)
    if arguments.KEY is None:
        for number, record in enumerate(export(place, [arguments.STEP])):
            if number == arguments.limit:
                _write(f"... only {arguments.limit} are shown; see --limit")
                break
            _write(json.dumps(record, ensure_ascii=False))
        return Exit.DONE
    row = read_key(place, arguments.STEP, _key(arguments))
    if row is None:
        say(f"step {arguments.STEP!r} has no state of key {arguments.KEY!r}")
        return Exit.FAILED
    _write(repr(row.value))
    if row.due_us is not None:
        _write(f"timer due at {shown_time(row.due_us)}")
    return Exit.DONE


def _key(arguments: argparse.Namespace) -> Any:
    if not arguments.literal:
        return arguments.KEY
    try:
        key = ast.literal_eval(arguments.KEY)
        encode_key(key)
    except (ValueError, SyntaxError, TypeError) as ex:
        msg = f"{arguments.KEY!r} is no key: {ex}"
        raise UsageError(msg) from None
    return key


def _export(arguments: argparse.Namespace) -> int:
    for record in export(_place(arguments), arguments.STEP):
        _write(json.dumps(record, ensure_ascii=False))
    return Exit.DONE


def _rename_step(arguments: argparse.Namespace) -> int:
    rename_step(_place(arguments), arguments.OLD, arguments.NEW)
    _write(f"step {arguments.OLD} is {arguments.NEW} now")
    return Exit.DONE


def _drop_step(arguments: argparse.Namespace) -> int:
    drop_step(_place(arguments), arguments.STEP)
    _write(f"step {arguments.STEP} is dropped; its states are deleted at the next start")
    return Exit.DONE


def _savepoint(arguments: argparse.Namespace) -> int:
    path = save(
        _place(arguments),
        Path(arguments.TARGET),
        arguments.name,
        sinks_settled=arguments.sinks_settled,
    )
    _write(f"savepoint {path}")
    return Exit.DONE


def _restore(arguments: argparse.Namespace) -> int:
    place, target = _place(arguments), Path(arguments.TARGET)
    name = arguments.name or _name_of(place, target, arguments.epoch)
    plan = RestorePlan(target, name, place.token, place.time_s)
    manifest = restore(place.disk, place.tables, place.root, plan)
    _write(
        f"{arguments.DIR} holds epoch {manifest.epoch} of flow {manifest.flow_id!r}, as a store of "
        "its own: what its exactly-once sinks publish is told apart from what the first store's did"
    )
    return Exit.DONE


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
    if not arguments.N.isdigit() or int(arguments.N) < 1:
        msg = f"N must be a whole number of at least 1; got {arguments.N!r}"
        raise UsageError(msg)
    init_db_dir(arguments.DIR, int(arguments.N))
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
