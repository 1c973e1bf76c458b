"""What several tests need."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
