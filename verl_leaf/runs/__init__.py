"""Runs: started, watched, summed up and compared."""
