"""LEAF advantages and speech-aware language models for veRL."""

__version__ = "0.1.0"
