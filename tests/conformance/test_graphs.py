"""Every executor under the suite of `graph_suite`."""

from __future__ import annotations

import pytest

from tests.conformance.graph_suite import GraphSuite
from tests.conformance.test_executors import CASES


@pytest.mark.parametrize("case", CASES, ids=str)
class TestGraphs(GraphSuite):
    """Every executor of the engine."""
