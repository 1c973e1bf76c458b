"""What verl runs of a speech model: the dataset class and the agent loop."""
