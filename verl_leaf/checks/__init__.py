"""What can be known to be wrong with a run before Ray and the engines start."""
