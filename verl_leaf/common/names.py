"""Names that several rooms share. This file imports nothing."""

FAILURE_REASON = "failure_reason"  # TransferQueue tag of a prompt whose rollout failed
SWAPPED_AUDIO_SUFFIX = "_swapped_audio"  # suffix of the data source of rows that have other rows' audio
REWARD_PATHS = ("pkg://verl_leaf.rewards", "pkg://verl_leaf/rewards")  # paths of our rewards in verl's configuration
PLACEHOLDER = "<audio>"  # placeholder in a prompt's text, one per clip
STOP = "stop"  # file beside the checkpoints that tells a run to end after its step and save a checkpoint
