"""Parts of a command line.

A parser that reports mistakes as the engine does, settings that may come from the environment
too, and the kinds of values they have.
"""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

from engine._cli.exits import Exit, say
from engine._version import __version__

_DURATION = re.compile(r"(?P<number>[0-9]+(\.[0-9]*)?|\.[0-9]+)(?P<unit>ms|s|m|h)?")
_SIZE = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+) *(?P<unit>|[kmg]i?b)", re.IGNORECASE)
_UNIT_BYTES = {
    "": 1,
    **{f"{unit}b": 1000 ** (i + 1) for i, unit in enumerate("kmg")},
    **{f"{unit}ib": 1024 ** (i + 1) for i, unit in enumerate("kmg")},
}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SIZE_MIN = 1_000_000
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0}
_HELP_WIDTH = 96
_PORT_MAX = 65535


class UsageError(Exception):
    """The command line or the environment is wrong, as the message says."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UsageError` and takes no shortened options.

    Args:
        prog: How the command is called.
        description: What it does.
        epilog: What its help ends with, laid out as it is.
    """

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            # A given width spares each start the look-up of the terminal's, and its modules.
            formatter_class=functools.partial(
                argparse.RawDescriptionHelpFormatter, width=_HELP_WIDTH
            ),
        )
        self.add_argument("--version", action="version", version=f"engine {__version__}")

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        msg = f"{message}\n  hint:   {self.prog} --help lists all options"
        raise UsageError(msg)


def exit_code_of(command: Callable[[], int]) -> int:
    """Do what a command line asks for; what ends that early is turned into an exit code too.

    Args:
        command: Parses arguments and acts on them; gives the exit code.
    """
    try:
        return command()
    except UsageError as ex:
        say(f"error: {ex}")
        return Exit.MISUSED
    except SystemExit as ex:  # Argparse has printed the help or the version.
        return int(ex.code or Exit.DONE)


@dataclass(frozen=True, slots=True)
class Setting:
    """An option of the command line that a variable of the environment may give as well."""

    name: str
    flags: tuple[str, ...]
    variable: str
    parse: Callable[[str], Any]
    default: Any
    metavar: str
    help: str


@dataclass(frozen=True, slots=True)
class Given:
    """The value of a setting, and by what it was given, as messages name it."""

    value: Any
    origin: str


def add_settings(parser: argparse.ArgumentParser, settings: Sequence[Setting]) -> None:
    """Add an option for each setting; `settings_of` reads them back."""
    for setting in settings:
        parser.add_argument(
            *setting.flags,
            dest=setting.name,
            metavar=setting.metavar,
            help=f"{setting.help} [{setting.variable}]",
        )


def settings_of(
    arguments: argparse.Namespace, settings: Sequence[Setting], environ: Mapping[str, str]
) -> dict[str, Given]:
    """The value of each setting: of its option, else of its variable, else its default.

    Raises:
        UsageError: A value isn't of the setting's kind.
    """
    found: dict[str, Given] = {}
    for setting in settings:
        text, origin = getattr(arguments, setting.name), f"{setting.flags[0]} "
        if text is None:
            text, origin = environ.get(setting.variable) or None, f"{setting.variable}="
        if text is None:
            found[setting.name] = Given(setting.default, "")
            continue
        try:
            found[setting.name] = Given(setting.parse(text), f"{origin}{text}")
        except ValueError as ex:
            msg = f"{origin}{text}: {ex}"
            raise UsageError(msg) from None
    return found


def duration(text: str) -> timedelta:
    """A length of time: a number of seconds, or a number with one of the units ms, s, m, h.

    Raises:
        ValueError: It isn't one.

    >>> duration("10"), duration("250ms"), duration("1.5s")
    (datetime.timedelta(seconds=10), datetime.timedelta(microseconds=250000), \
datetime.timedelta(seconds=1, microseconds=500000))
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        msg = "must be a duration, such as 10 (seconds), 250ms, 1.5s, 1m or 1h"
        raise ValueError(msg)
    try:
        return timedelta(seconds=float(match["number"]) * _UNIT_SECONDS[match["unit"]])
    except OverflowError:
        msg = "is too long a duration"
        raise ValueError(msg) from None


def resources(text: str) -> dict[str, float]:
    """Amounts by name; those of memory may have a unit of bytes.

    Raises:
        ValueError: It isn't that.

    >>> resources("cpu=2, gpu=0.5, memory=4GB")
    {'cpu': 2.0, 'gpu': 0.5, 'memory': 4000000000}
    """
    found: dict[str, float] = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        name, equals, amount = (part.strip() for part in pair.partition("="))
        if not equals or not _NAME.fullmatch(name):
            msg = f"{pair!r} is not `NAME=NUMBER` (several are divided by commas)"
            raise ValueError(msg)
        if name in found:
            msg = f"{name!r} is there twice"
            raise ValueError(msg)
        found[name] = _amount(name, amount)
    if not found:
        msg = "must be at least one `NAME=NUMBER`"
        raise ValueError(msg)
    return found


def _amount(name: str, text: str) -> float:
    match = _SIZE.fullmatch(text)
    if match is None or (match["unit"] and name != "memory"):
        kind = "a number of bytes, such as 4GB" if name == "memory" else "a number"
        msg = f"`{name}` must be {kind}, not {text!r}"
        raise ValueError(msg)
    number = float(match["number"]) * _UNIT_BYTES[match["unit"].lower()]
    return int(number) if name == "memory" else number


def size(text: str) -> int:
    """A number of bytes, or of one of KB, MB, GB (powers of 1,000), KiB, MiB and GiB.

    Raises:
        ValueError: It isn't one, or less than 1 MB.

    >>> size("256MB"), size("1 GiB")
    (256000000, 1073741824)
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        msg = "must be a number of bytes, such as 256MB, 1.5GB or 512MiB"
        raise ValueError(msg)
    nbytes = int(float(match["number"]) * _UNIT_BYTES[match["unit"].lower()])
    if nbytes < _SIZE_MIN:
        msg = "must be at least 1MB"
        raise ValueError(msg)
    return nbytes


def count(text: str) -> int:
    """A whole number of at least 1.

    Raises:
        ValueError: It isn't one.
    """
    if not _is_number(text) or int(text) < 1:
        msg = "must be a whole number of at least 1"
        raise ValueError(msg)
    return int(text)


def index(text: str) -> int:
    """A whole number of at least 0.

    Raises:
        ValueError: It isn't one.
    """
    if not _is_number(text):
        msg = "must be a whole number of at least 0"
        raise ValueError(msg)
    return int(text)


def port(text: str) -> int:
    """The number of a port, or 0 for any that is free.

    Raises:
        ValueError: It isn't one.
    """
    if not _is_number(text) or int(text) > _PORT_MAX:
        msg = f"must be a port of this machine, from 0 to {_PORT_MAX}"
        raise ValueError(msg)
    return int(text)


def addresses(text: str) -> list[str]:
    """``host:port`` of each process, with semicolons between.

    Raises:
        ValueError: One of them isn't an address, or there is none.

    >>> addresses("a.example:2101;b.example:2101")
    ['a.example:2101', 'b.example:2101']
    """
    found = [address.strip() for address in text.split(";") if address.strip()]
    if not found:
        msg = "must be at least one `host:port`"
        raise ValueError(msg)
    for address in found:
        host, _, port = address.rpartition(":")
        if not host or not _is_number(port) or not 1 <= int(port) <= _PORT_MAX:
            msg = f"{address!r} is not `host:port` (several are divided by semicolons)"
            raise ValueError(msg)
    return found


def _is_number(text: str) -> bool:
    return len(text) < 10 and text.isascii() and text.isdigit()
