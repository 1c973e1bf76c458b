"""The trees of training steps on disk: the format of a file, and its writer."""
