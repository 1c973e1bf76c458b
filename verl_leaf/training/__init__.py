"""Code that verl runs for text and speech: the estimators, shared prompts, and traces of trees."""
