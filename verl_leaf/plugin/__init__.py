"""The modules that verl and vLLM load through their entry points.

Importing ``verl.py`` connects the package; ``vllm.py`` has a function that vLLM calls. Both libraries swallow the errors of
plugins (verl/__init__.py logs them at DEBUG level; vllm/plugins/__init__.py logs them and continues), and a half-connected
process would train something else than it was told to. So an error here ends the process with a message.
"""
