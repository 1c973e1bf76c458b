"""What models with a Whisper encoder share: 30 s windows, 25 audio tokens a second, a table of positions."""

import torch

LAYOUT = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.audio_tower.": "audio_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}


class PositionTable(torch.nn.Module):
    """The encoder's position table: an ``nn.Embedding``'s parameter without being one.

    verl/utils/fsdp_utils.py _select_fsdp2_wrap_targets (0.9.1) shards every ``nn.Embedding`` by itself and gathers it
    when it is called. The encoders read ``embed_positions.weight`` without a call, so they would find a shard.
    """

    def __init__(self, weight: torch.nn.Parameter):
        super().__init__()
        self.weight = weight


def audio_tokens(processor, samples: int) -> int:
    """One mel frame a hop, halved by the second convolution and again by the pooling (modeling_qwen2_audio.py)."""
    frames = -(-samples // processor.feature_extractor.hop_length)
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def unfit(config) -> str | None:
    """Why a model of this configuration cannot be served; None if it can.

    vLLM (multimodal processors of qwen2_audio.py and audioflamingo3.py) hands the encoder 3,000 mel frames, always.
    """
    if config.audio_config.max_source_positions != 1500:
        return f"audio_config.max_source_positions is {config.audio_config.max_source_positions}, vLLM needs 1500"
    return None
