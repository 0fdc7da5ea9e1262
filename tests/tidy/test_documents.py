"""The documents are true: their snippets run, their links lead somewhere, their numbers agree."""

from __future__ import annotations

import doctest
import importlib
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import engine
from tests.tidy.tree import ROOT, all_files, python_files

DOCUMENTS = [path for path in all_files() if path.endswith(".md")]
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Snippet:
    """One fenced block of Python in a document."""

    document: str
    line: int
    code: str

    def __str__(self) -> str:
        """Where it stands."""
        return f"{self.document}:{self.line}"


def snippets_of(document: str) -> list[Snippet]:
    """The Python blocks of a document."""
    text = ROOT.joinpath(document).read_text(encoding="utf-8")
    return [
        Snippet(document, text.count("\n", 0, match.start(1)) + 1, match[1])
        for match in FENCE.finditer(text)
    ]


# The reference of operators shows signatures too, and has tests of its own.
WITH_SNIPPETS = [path for path in DOCUMENTS if path != "docs/operators.md"]
SNIPPETS = [pytest.param(s, id=str(s)) for d in WITH_SNIPPETS for s in snippets_of(d)]
MODULES = [pytest.param(f.module, id=f.module) for f in python_files("engine/")]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_runs(snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each block of Python in a document runs by itself, and prints what it says it prints."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__snippet__"}
    if ">>>" in snippet.code:
        test = doctest.DocTestParser().get_doctest(
            snippet.code, names, str(snippet), snippet.document, snippet.line
        )
        _check(test)
    else:
        # As a module of its own, without what this one has from `__future__`.
        exec(compile(snippet.code, str(snippet), "exec", dont_inherit=True), names)


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_docstrings_run(module: str, tmp_path: Path, monkeypatch):
    """What a docstring shows behind ``>>>`` gives what it says."""
    monkeypatch.chdir(tmp_path)
    for test in doctest.DocTestFinder().find(importlib.import_module(module)):
        _check(test)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_headings(document: str):
    """A link to a place in this project names one that is there."""
    targets = LINK.findall(ROOT.joinpath(document).read_text(encoding="utf-8"))
    inside = [t for t in targets if not t.startswith(("http://", "https://"))]
    assert [t for t in inside if not _leads_somewhere(document, t)] == []


def test_the_changelog_tells_of_this_version():
    """The newest version in the changelog is the one that the package has."""
    text = ROOT.joinpath("CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[?([\d.]+\w*)\]?", text, re.MULTILINE)
    assert versions[0] == engine.__version__


def _check(test: doctest.DocTest) -> None:
    said: list[str] = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    doctest.DocTestRunner(optionflags=flags).run(test, out=said.append)
    assert not said, "".join(said)


def _leads_somewhere(document: str, target: str) -> bool:
    path, _, heading = target.partition("#")
    file = ROOT.joinpath(document).parent.joinpath(path) if path else ROOT / document
    if not heading or not file.is_file():
        return file.exists()
    headings = HEADING.findall(file.read_text(encoding="utf-8"))
    return heading in {_anchor(h) for h in headings}


def _anchor(heading: str) -> str:
    words = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return words.strip().replace(" ", "-")
