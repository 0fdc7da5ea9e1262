"""What `engine.run` and `engine.visualize` share: arguments, import strings, error reports.

Everything here speaks to a person at a terminal, on standard error. Libraries and tests get
exceptions instead, from `engine.testing` and `engine.dataflow`.
"""
