"""The sessions in docs/recovery.md run, and give what they show."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "recovery.md"
VARIABLE = (
    (r"\b[0-9a-f]{32}\b", "ID"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "TIME"),
    (r" *\d+(\.\d)? (kB|B|MB)", " SIZE"),
)
"""What differs from run to run, and what stands for it."""


def fixed(text: str) -> str:
    for pattern, name in VARIABLE:
        text = re.sub(pattern, name, text)
    return text


def test_the_sessions_of_the_guide_are_true(tmp_path: Path) -> None:
    """Each command exits with 0 and writes what stands below it."""
    text = GUIDE.read_text(encoding="utf-8")
    (flow, *_) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "spending.py").write_text(flow, encoding="utf-8")
    sessions = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(sessions) >= 3
    for session in sessions:
        for part in session.split("$ ")[1:]:
            line, _, expected = part.partition("\n")
            python, *arguments = shlex.split(line)
            assert python == "python"
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, (line, done.stderr)
            assert fixed(done.stdout) == fixed(expected), line


def test_the_guide_names_every_command() -> None:
    """With what it takes."""
    text = GUIDE.read_text(encoding="utf-8")
    usage = subprocess.run(
        [sys.executable, "-m", "engine.recovery", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for command in re.findall(r"^    (\S+)", usage, re.MULTILINE):
        assert f"| `{command} " in text or command in {"COMMAND", "init"}, command
