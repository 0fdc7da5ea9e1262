"""``python -m engine.dlq``: list, show, replay and drop the dead letters in a recovery store."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine._cli.arguments import Parser, UsageError, exit_code_of
from engine._cli.exits import Exit, say
from engine._cli.output import finished
from engine._cli.recovery_command import failed, unwritable
from engine._cli.recovery_output import (
    OutputError,
    counted,
    plain,
    write,
    write_json,
    write_table,
)
from engine.errors import StoreError
from engine.operators._kept_letters import KEPT_KIND
from engine.recovery._admin import StorePlace
from engine.recovery._disk import RealDisk
from engine.recovery._init import new_token
from engine.recovery._letter_requests import Action
from engine.recovery._letters import KeptLetter, ask, kept_letters
from engine.recovery.store import RocksTables

_PROG = "python -m engine.dlq"
_DESCRIPTION = "The dead letters in the recovery store of a flow that is not running."
_EPILOG = """\
DIR is the folder that was given to `python -m engine.run` with -r. What `replay` and `drop` ask
for is done when the flow is started next, with its first epoch: until then the letters stay.

exit codes:
  0    it is done
  1    it could not be done
  2    the command line is wrong
  130  Ctrl-C
  141  nobody reads standard output any more
"""
_SHOWN_CHARACTERS = 60
_ASKED: dict[Action, str] = {"replay": "put back", "drop": "forgotten"}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; gives the exit code.

    Args:
        argv: The arguments, without the command itself; those of this process if left out.
    """
    return exit_code_of(lambda: _execute(list(sys.argv[1:] if argv is None else argv)))


def _execute(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    try:
        code = _COMMANDS[arguments.command](arguments)
    except OutputError as ex:
        code = unwritable(ex)
    except StoreError as ex:
        code = failed(ex, arguments)
    except OSError as ex:
        say(f"error: {ex.filename or arguments.DIR}: {ex.strerror or ex}")
        code = Exit.FAILED
    except KeyboardInterrupt:
        say("KeyboardInterrupt")
        code = Exit.INTERRUPTED
    return finished(code)


def _parser() -> Parser:
    parser = Parser(_PROG, _DESCRIPTION, _EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=f"{text.capitalize()}.", epilog="")
        made.add_argument("DIR", help="the store's folder")
        return made

    listed = add("ls", "count letters by step and error")
    listed.add_argument("--each", action="store_true", help="a line for each letter")
    shown = add("show", "show letters whole")
    shown.add_argument("ID", nargs="+", help="of a letter, as `ls --each` names it")
    for reader in (listed, shown):
        reader.add_argument("--json", action="store_true", help="each letter as a line of JSON")
    replay = add("replay", "put records back at the input of their step, at the next start")
    drop = add("drop", "forget letters, at the next start")
    for command in (replay, drop):
        command.add_argument("ID", nargs="*", help="of a letter")
        command.add_argument("--all", action="store_true", help="all that the other options allow")
    for command in (listed, replay, drop):
        command.add_argument("--step", metavar="STEP", help="only of this step: flow.step")
        command.add_argument("--error", metavar="TYPE", help="only with this error: ValueError")
    return parser


def _place(arguments: argparse.Namespace) -> StorePlace:
    return StorePlace(
        RealDisk(),
        RocksTables(),
        Path(arguments.DIR),
        new_token(),
        time.time(),
        # Letters are plain values; what users' classes would do on being read, they do in a run.
        allow_pickle=False,
    )


def _chosen(arguments: argparse.Namespace, letters: list[KeptLetter]) -> list[KeptLetter]:
    """Those of the step and with the error that the options name."""
    step, error = arguments.step, arguments.error
    return [
        letter
        for letter in letters
        if step in (None, letter.fields["step_id"])
        and (
            error in (None, letter.fields["error_type"])
            or letter.fields["error_type"].endswith(f".{error}")
        )
    ]


def _ls(arguments: argparse.Namespace) -> int:
    letters = _chosen(arguments, kept_letters(_place(arguments), KEPT_KIND))
    if arguments.json:
        for letter in letters:
            write_json(_fields(letter))
    elif arguments.each:
        for letter in letters:
            write(_line(letter))
    else:
        _write_counts(letters)
    return Exit.DONE


def _write_counts(letters: list[KeptLetter]) -> None:
    groups: dict[tuple[str, str], list[KeptLetter]] = {}
    for letter in letters:
        name = letter.fields["step_id"], letter.fields["error_type"]
        groups.setdefault(name, []).append(letter)
    if groups:
        rows = [("letters", "step", "error", "last", "last id")]
        rows += [
            (f"{len(some):,}", plain(step), plain(error), _at(some[-1]), some[-1].letter_id)
            for (step, error), some in sorted(groups.items())
        ]
        write_table(rows, numbers=[0])
    write(counted(len(letters), "dead letter"))
    for action, what in _ASKED.items():
        asked = sum(letter.asked == action for letter in letters)
        if asked:
            write(f"{asked:,} of them will be {what} at the next start")


def _line(letter: KeptLetter) -> str:
    fields = letter.fields
    record = fields["shown"]
    if len(record) > _SHOWN_CHARACTERS:
        record = f"{record[:_SHOWN_CHARACTERS]}..."
    error = fields["error_type"].rpartition(".")[2]
    asked = f"  (will be {_ASKED[letter.asked]})" if letter.asked else ""
    what = f"{_at(letter)}  {fields['step_id']}  {record}  {error}: {fields['message']}"
    return f"{letter.letter_id}  {plain(what)}{asked}"


def _at(letter: KeptLetter) -> str:
    at = datetime.fromtimestamp(letter.fields["at_s"], UTC)
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def _fields(letter: KeptLetter) -> dict[str, Any]:
    """A letter as JSON can hold it."""
    fields = {
        name: value for name, value in letter.fields.items() if name not in ("record", "at_s")
    }
    fields["record"] = fields.pop("shown")
    fields["at"] = datetime.fromtimestamp(letter.fields["at_s"], UTC).isoformat()
    fields["can_be_replayed"] = letter.fields["record"] is not None
    return {"letter_id": letter.letter_id, **fields, "asked": letter.asked}


def _show(arguments: argparse.Namespace) -> int:
    by_id = {x.letter_id: x for x in kept_letters(_place(arguments), KEPT_KIND)}
    unknown = [letter_id for letter_id in arguments.ID if letter_id not in by_id]
    if unknown:
        return _no_such(unknown)
    for letter_id in arguments.ID:
        if arguments.json:
            write_json(_fields(by_id[letter_id]))
        else:
            _write_letter(by_id[letter_id])
    return Exit.DONE


def _write_letter(letter: KeptLetter) -> None:
    fields = _fields(letter)
    trace = fields.pop("traceback")
    for name, value in fields.items():
        if value is not None:
            write(f"{name + ':':<16} {plain(str(value))}")
    for line in trace.splitlines():
        write(f"  {plain(line)}")


def _ask(arguments: argparse.Namespace) -> int:
    action: Action = arguments.command
    place = _place(arguments)
    if bool(arguments.ID) == arguments.all:
        msg = f"`{_PROG} {action}` takes either ids of letters or --all"
        raise UsageError(msg)
    letter_ids = arguments.ID
    if arguments.all:
        letter_ids = [x.letter_id for x in _chosen(arguments, kept_letters(place, KEPT_KIND))]
    unknown = ask(place, KEPT_KIND, action, letter_ids)
    if unknown:
        return _no_such(unknown)
    write(f"{counted(len(letter_ids), 'dead letter')} will be {_ASKED[action]} at the next start")
    return Exit.DONE


def _no_such(unknown: list[str]) -> Exit:
    say(f"error: the store has no dead letter {', '.join(map(plain, unknown))}")
    return Exit.FAILED


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "ls": _ls,
    "show": _show,
    "replay": _ask,
    "drop": _ask,
}
