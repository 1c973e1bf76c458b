"""The builder of tiny models can be imported by the tests beside it, and the plugin is loaded as in a run."""

import sys
from pathlib import Path

import verl  # noqa: F401  (loads its plugins, ours among them)

sys.path.insert(0, str(Path(__file__).parent))
