"""Audio and rows: reading clips in every form that a row may hold them, and parquet files row by row."""
