"""How much memory this process has in use, for the workloads that are about memory."""

from __future__ import annotations

import os
from pathlib import Path

_STATISTICS = Path("/proc/self/statm")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """The resident set of this process."""
    return int(_STATISTICS.read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
