"""How `engine.visualize` draws: a flow or a plan becomes plain data, then a diagram, then text.

`rendered` and `planned` make plain data of a flow and of its plan, `diagrams` makes boxes and
arrows of either, `mermaid` and `plantuml` write these down.
"""
