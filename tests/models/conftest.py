"""The plugin is loaded as in a run."""

import verl  # noqa: F401  (loads its plugins, ours among them)
