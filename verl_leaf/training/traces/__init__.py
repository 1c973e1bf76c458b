"""The trees of training steps on disk: what a file holds, how it is written beside the training, and how it is read."""
