"""The project's files say nothing of the machine that they were written on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tidy.tree import ROOT, all_files

TEXT_BYTES_MAX = 1_000_000
"""Beyond that a file is data."""

PLACES = re.compile(
    r"/(?:root|tmp/\w{1,3}|work)/"  # somebody's folders
    r"|\.pyenv|\.local/share"
    r"|(?<![\w.])(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2,3}(?![\w.])"
    r"|--index-url|--extra-index-url|--trusted-host|files\.pythonhosted"
)
ALL_ADDRESSES = re.compile(r"\b0\.0\.0\.0\b")

FILES = [path for path in all_files() if ROOT.joinpath(path).stat().st_size < TEXT_BYTES_MAX]


@pytest.mark.parametrize("path", FILES)
def test_no_file_names_a_place_of_its_own_machine(path: str):
    """No folders of a machine, no private addresses, no package servers."""
    if path == Path(__file__).relative_to(ROOT).as_posix():
        return
    text = ROOT.joinpath(path).read_text(encoding="utf-8")
    assert [found[0] for found in PLACES.finditer(text)] == []


@pytest.mark.parametrize("path", [p for p in FILES if p.endswith(".py") and "tidy" not in p])
def test_nothing_listens_to_everyone(path: str):
    """Servers are bound to this machine's own address unless a user says otherwise."""
    assert not ALL_ADDRESSES.search(ROOT.joinpath(path).read_text(encoding="utf-8"))
