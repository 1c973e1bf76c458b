"""The dataset class and the agent loop with which verl trains a speech model."""
