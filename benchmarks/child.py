"""One measurement in a process of its own: `python -m benchmarks.child WORKLOAD CONTENDER RECORDS`.

`measure.py` starts it afresh for each measurement, so that none finds the memory, the caches or the
garbage of another. The outcome is the last line on standard output, as JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from benchmarks.workloads import WORKLOADS


def main(workload: str, contender: str, records: str, mode: str) -> None:
    outcome = WORKLOADS[workload].run(contender, int(records), check=mode == "check")
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main(*sys.argv[1:])
