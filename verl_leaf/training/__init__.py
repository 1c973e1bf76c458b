"""What verl runs whatever the modality: the estimators as it calls them, shared prompts, the traces of trees."""
