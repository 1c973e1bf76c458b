"""The tree page: the traces of a run as one HTML file."""
