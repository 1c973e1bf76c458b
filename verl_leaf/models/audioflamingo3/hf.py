"""Audio Flamingo 3 for the FSDP actor: transformers' class, adapted to FSDP2 (transformers 5.9 to 5.10)."""

from transformers import AudioFlamingo3ForConditionalGeneration as Base

from verl_leaf.models.actor import takes_features_key
from verl_leaf.models.whisper import WhisperActor


class AudioFlamingo3ForConditionalGeneration(WhisperActor, Base):
    """The base class with the same parameters, names and results, except that the placeholder's logit is masked."""

    forward = takes_features_key(Base.forward)
