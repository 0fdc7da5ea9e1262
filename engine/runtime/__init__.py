"""Plans flows and runs them. Imported only by `engine.run`, `engine.testing` and the other CLIs.

The life of a record: a source gives a batch (`_source_node`), fused loops (`_fusion`) and nodes
(`_nodes`) of one stage (`_stage`) hand it on, channels (`_channel`) carry it to the next stage,
and a sink takes it (`_sink_node`). The worker (`_worker`) does this in one loop, the coordinator
(`_coordinator`) decides about epochs, and `_run` drives both.
"""

from engine.runtime._address import Address
from engine.runtime._build import WorkerSite
from engine.runtime._channel import CHANNEL_BYTES_MAX
from engine.runtime._closing import closing
from engine.runtime._coordinator import Coordinator
from engine.runtime._deal import deal_partitions
from engine.runtime._failure import explained
from engine.runtime._ids import EdgeId, Epoch, WorkerIndex
from engine.runtime._launch import Cluster, Launch, Layout, ReportedError, TlsFiles, secret_of
from engine.runtime._leader import Drain
from engine.runtime._messages import CaughtUp, Command, Decision, LinkEpoch, Report, Watermark
from engine.runtime._monitoring import monitoring
from engine.runtime._offers import check_demands, check_offer, shown_resources
from engine.runtime._outage import DEFAULT_SOURCE_TIMEOUT, Patience
from engine.runtime._plan import (
    Plan,
    PlannedEdge,
    Route,
    Stage,
    StageEdge,
    plan,
    runs_of,
)
from engine.runtime._planned_clocks import PlannedClock, clocks_of, reasons
from engine.runtime._planned_step import PlannedStep
from engine.runtime._ports import Clock, Network, SystemClock, SystemWaiter, Waiter
from engine.runtime._run import DEFAULT_EPOCH_INTERVAL, RunOptions, check_kept, run_flow
from engine.runtime._store import StepChanges, Store
from engine.runtime._worker import Worker

__all__ = [
    "CHANNEL_BYTES_MAX",
    "DEFAULT_EPOCH_INTERVAL",
    "DEFAULT_SOURCE_TIMEOUT",
    "Address",
    "CaughtUp",
    "Clock",
    "Cluster",
    "Command",
    "Coordinator",
    "Decision",
    "Drain",
    "EdgeId",
    "Epoch",
    "Launch",
    "Layout",
    "LinkEpoch",
    "Network",
    "Patience",
    "Plan",
    "PlannedClock",
    "PlannedEdge",
    "PlannedStep",
    "Report",
    "ReportedError",
    "Route",
    "RunOptions",
    "Stage",
    "StageEdge",
    "StepChanges",
    "Store",
    "SystemClock",
    "SystemWaiter",
    "TlsFiles",
    "Waiter",
    "Watermark",
    "Worker",
    "WorkerIndex",
    "WorkerSite",
    "check_demands",
    "check_kept",
    "check_offer",
    "clocks_of",
    "closing",
    "deal_partitions",
    "explained",
    "monitoring",
    "plan",
    "reasons",
    "run_flow",
    "runs_of",
    "secret_of",
    "shown_resources",
]
