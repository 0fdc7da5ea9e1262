"""Every executor under the suite of `executor_suite`. A new one is one more line in `CASES`."""

from __future__ import annotations

import pytest

from engine.operators.tasks import AsyncExecutor, InlineExecutor, ProcessExecutor, ThreadExecutor
from tests.conformance.executor_suite import ExecutorCase, ExecutorSuite

CASES = [
    ExecutorCase("inline", lambda _: InlineExecutor(), is_inline=True),
    ExecutorCase("async", lambda _: AsyncExecutor(), is_async=True, bounds=False),
    ExecutorCase("thread", ThreadExecutor),
    ExecutorCase("process", ProcessExecutor),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestExecutors(ExecutorSuite):
    """Every executor of the engine."""
