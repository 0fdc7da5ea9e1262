"""How fast the engine is, measured side by side with a hand-written loop and with Bytewax.

`python -m benchmarks` (`__main__.py`) asks `measure.py` for the figures and `report.py` for the
table. `measure.py` runs each measurement as a process of its own (`child.py`), which takes one
workload of `workloads/` and runs it by one contender. A workload is written once: as a graph for
the engines (`contenders.py` binds it to one of them) and as plain loops for the bare contenders.
Where the engine's own command is measured, it runs the flow of `resuming.py`. Nothing here asserts
a timing; what is checked is that all contenders give the same output.
"""
