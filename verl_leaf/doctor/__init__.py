"""``verl-leaf doctor``: whether an environment, a model or a GPU can be trained with, and what to do if not."""
