"""``verl.plugins`` entry point. verl imports it and calls nothing (verl/__init__.py), so importing it is the call."""

from verl_leaf.plugin import connect_verl

connect_verl()
