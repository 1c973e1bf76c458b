"""Audio prompts for verl: reading audio, the dataset class and the agent loop."""
