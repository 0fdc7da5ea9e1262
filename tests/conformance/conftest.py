"""Makes the assertions of the suites, which are no test modules themselves, explain themselves."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "tests.conformance.executor_suite",
    "tests.conformance.sink_suite",
    "tests.conformance.source_suite",
)
