"""Starting, watching, summarising and comparing training runs."""
