"""Checks of a run before Ray and the engines start."""
