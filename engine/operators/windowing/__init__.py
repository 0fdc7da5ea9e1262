"""Windows: what belongs together in time, worked on together.

Three things make a step with windows: a **clock** says what time each value has, and by its
**watermark** what time has been reached; a **windower** says which windows a time belongs to; and
the operator says what is done with the values of a window::

    import engine.operators.windowing as win

    clock = win.EventClock(lambda order: order.at, timedelta(seconds=10))
    minutes = win.TumblingWindower(timedelta(minutes=1), start)
    out = win.collect_window("orders", keyed_orders, clock, minutes)

Three streams come out (`WindowOut`): what was made of each window, values that came too late, and
when windows began and ended.

`window` is the general operator; the others are made of it.
"""

from engine.operators._event_time import UTC_MAX, UTC_MIN
from engine.operators.windowing._as_of_join import as_of_join
from engine.operators.windowing._as_of_logic import AsOfJoinHow
from engine.operators.windowing._clocks import (
    Clock,
    ClockLogic,
    EventClock,
    EventClockScope,
    SystemClock,
)
from engine.operators.windowing._collections import collect_window
from engine.operators.windowing._emitting import (
    Cause,
    Emission,
    OnCount,
    OnInterval,
    OnUpdate,
    Trigger,
)
from engine.operators.windowing._extremes import count_window, max_window, min_window
from engine.operators.windowing._folds import fold_window, reduce_window
from engine.operators.windowing._interval_join import JoinOut, interval_join
from engine.operators.windowing._interval_logic import IntervalJoinHow
from engine.operators.windowing._joins import join_window
from engine.operators.windowing._logic import WindowLogic
from engine.operators.windowing._order_by_time import OrderOut, order_by_time
from engine.operators.windowing._window import WindowOut, window
from engine.operators.windowing._windowers import (
    LATE_SESSION_ID,
    ZERO_TD,
    SessionWindower,
    SlidingWindower,
    TumblingWindower,
    Windower,
    WindowerLogic,
    WindowMetadata,
)

__all__ = [
    "LATE_SESSION_ID",
    "UTC_MAX",
    "UTC_MIN",
    "ZERO_TD",
    "AsOfJoinHow",
    "Cause",
    "Clock",
    "ClockLogic",
    "Emission",
    "EventClock",
    "EventClockScope",
    "IntervalJoinHow",
    "JoinOut",
    "OnCount",
    "OnInterval",
    "OnUpdate",
    "OrderOut",
    "SessionWindower",
    "SlidingWindower",
    "SystemClock",
    "Trigger",
    "TumblingWindower",
    "WindowLogic",
    "WindowMetadata",
    "WindowOut",
    "Windower",
    "WindowerLogic",
    "as_of_join",
    "collect_window",
    "count_window",
    "fold_window",
    "interval_join",
    "join_window",
    "max_window",
    "min_window",
    "order_by_time",
    "reduce_window",
    "window",
]
