"""What verl and vLLM load through their entry points: ``verl.py`` connects on import, ``vllm.py`` has a function to call.

Both libraries swallow the errors of plugins (verl/__init__.py logs them at DEBUG level, vllm/plugins/__init__.py logs them
and continues), and a half-connected process would train something else than it was asked to. So an error here ends the
process with a message.
"""
