"""A place for the arrays of tests. Its files have no names, so there is nothing to clean up."""

from __future__ import annotations

from pathlib import Path
from tempfile import gettempdir

from tunesmith_trainer.data.scratch import Scratch

SCRATCH = Scratch(Path(gettempdir()))
