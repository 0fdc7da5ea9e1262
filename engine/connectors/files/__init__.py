"""Files in and out: lines, CSV rows, single files and directories.

`FileSource`, `DirSource` and `CSVSource` read to the end of their files and stop; `FileSink` and
`DirSink` write text. All of them keep byte offsets as state, so with recovery each line is read
and written exactly once.
"""

from __future__ import annotations

from engine.connectors.files._csv import CSVSource
from engine.connectors.files._lines import DirSource, FileSource
from engine.connectors.files._sinks import DirSink, FileSink

__all__ = ["CSVSource", "DirSink", "DirSource", "FileSink", "FileSource"]
