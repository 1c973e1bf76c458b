"""Reading of audio clips in every form that a row may contain, and of parquet files row by row."""
