"""Computing only once what the rollouts of a prompt share."""

SHARE_PROMPTS = "share_prompts"  # in `actor_rollout_ref.model.override_config`
