"""Names that several rooms share. Imports nothing, so that whoever needs one of them needs nothing else."""

FAILURE_REASON = "failure_reason"  # tag in the queue of a prompt whose rollout failed
SWAPPED_AUDIO_SUFFIX = "_swapped_audio"  # of the data source of rows that have other rows' audio
REWARD_PATHS = ("pkg://verl_leaf.rewards", "pkg://verl_leaf/rewards")  # of our rewards, in verl's configuration
PLACEHOLDER = "<audio>"  # in the text of a prompt, once for each clip
STOP = "stop"  # a file beside the checkpoints, by which a run is told to save one and end after its step
