"""What the rollouts of a prompt have in common, computed once by the actor."""

SHARE_PROMPTS = "share_prompts"  # in `actor_rollout_ref.model.override_config`
