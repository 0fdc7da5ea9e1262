"""Hello: the smallest flow. A source, one step, a sink.

Run it from the top of the project::

    python -m engine.run examples.hello:flow
"""

from __future__ import annotations

import engine.operators as op
from engine.connectors.stdio import StdOutSink
from engine.dataflow import Dataflow
from engine.testing import TestingSource

flow = Dataflow("hello")
names = op.input("names", flow, TestingSource(["Ada", "Grace", "Barbara"]))
greetings = op.map("greet", names, lambda name: f"Hello, {name}!")
op.output("out", greetings, StdOutSink())
