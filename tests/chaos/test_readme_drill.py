"""The README's drill, typed as a new user would: in a fresh environment, command by command."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.tidy.tree import ROOT, all_files

README = ROOT.joinpath("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
ENVIRONMENT = re.search(r"`(python -m venv [^`]*)`", README)
SECONDS_MAX = 180
"""A drill that takes longer than this hangs; it should be done in less than a third of it."""

SCRIPT = """
set -e
{environment}
# The libraries that it needs are those of the tests' own environment, so nothing is fetched.
python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > where
printf '{libraries}' > "$(cat where)/libraries.pth"
{install}
python -c 'import engine; print("engine:", engine.__file__)'
{drill}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project's files, because installing leaves traces in the tree."""
    copy = tmp_path / "project"
    for path in all_files():
        if path.startswith(("engine/", "examples/")) or "/" not in path:
            copy.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, copy / path)
    return copy


def environment(folder: Path) -> dict[str, str]:
    """A new user's, in which `python` is the Python that runs the tests."""
    folder.mkdir()
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o700)
    ours = ("PYTHON", "ENGINE_", "PIP_", "VIRTUAL_ENV")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return {
        **kept,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        # The commands stay as they are, and yet nothing is fetched. (Of a "no" option that turns
        # something off, pip wants to hear that it be false.)
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def test_the_drill_of_the_readme(project: Path, tmp_path: Path) -> None:
    """What was killed in its middle and started again writes the same, byte for byte."""
    [drill] = [block for block in BLOCKS if "kill -9" in block]
    assert ENVIRONMENT is not None
    libraries = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    # Before it goes on, see that it was killed in its middle; and leave what it wrote.
    killed = "kill -9 $!"
    looked = f'{killed}\nwait $! || echo "exit code: $?"; wc -c drill/killed.txt'
    assert drill.count(killed) == 1
    assert drill.endswith("rm -r drill\n")
    script = SCRIPT.format(
        environment=ENVIRONMENT[1],
        libraries=r"\n".join(libraries),
        install=BLOCKS[0],
        drill=drill.replace(killed, looked).removesuffix("rm -r drill\n"),
    )
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=project,
        env=environment(tmp_path / "bin"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    sys.stdout.write(done.stdout + done.stderr)
    assert done.returncode == 0
    assert f"engine: {project}/engine/__init__.py" in done.stdout
    assert "exit code: 137" in done.stdout
    [size] = re.findall(r"^(\d+) drill/killed.txt", done.stdout, re.MULTILINE)
    whole = (project / "drill" / "whole.txt").read_bytes()
    assert 0 < int(size) < len(whole)
    assert (project / "drill" / "killed.txt").read_bytes() == whole
    assert b"\nthe 68190\n" in whole
    assert done.stdout.splitlines()[-1] == "byte for byte the same"
