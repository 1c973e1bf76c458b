"""What the rollouts of a prompt have in common, computed once by the actor."""

FLAG = "share_prompts"  # in `actor_rollout_ref.model.override_config`
