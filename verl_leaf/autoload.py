"""``verl.plugins`` entry point. verl imports it and calls nothing (verl/__init__.py), so importing it is the call."""

try:
    from verl_leaf.plugin import connect_verl
except ModuleNotFoundError as error:  # which verl would log at DEBUG level, and train without us
    raise SystemExit(
        f"verl-leaf cannot connect to verl without {error.name}: pip install 'verl-leaf[verl]', "
        "or set VERL_USE_EXTERNAL_PLUGINS=none to use verl without it."
    ) from error

connect_verl()
