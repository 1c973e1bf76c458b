"""Audio prompts for veRL: reading audio, the dataset class and the agent loop."""
