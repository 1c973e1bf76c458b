"""What people look at after, or during, a run: trees of a step, forks over training, learning curves."""
