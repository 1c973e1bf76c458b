"""LEAF advantages and speech-aware language models for verl."""

__version__ = "0.2.0"
