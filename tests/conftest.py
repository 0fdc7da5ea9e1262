"""What all tests share: how hypothesis behaves here."""

from __future__ import annotations

import os

from hypothesis import settings

# A shared machine pauses now and then, so a slow example is no failure.
settings.register_profile("people", deadline=None)
# The same examples in each run: a change that didn't break anything must not be stopped by luck.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "people")
