"""What models with a Whisper encoder share: 30 s windows, 25 audio tokens a second, a table of positions."""

import torch

from verl_leaf.models.actor import SpeechActor
from verl_leaf.models.shapes import padded_length

CHECKPOINT_PREFIXES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.audio_tower.": "audio_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}


def leave_out_padding(layers: torch.nn.ModuleList) -> None:
    """Let the layers of an encoder compute only what the longest clip of a batch reaches, instead of 30 s.

    The encoders (transformers' modeling_qwen2_audio.py and modeling_audioflamingo3.py, and vLLM's use of them) fill every
    clip up to 1,500 positions and mask the filling. Attention to nothing is most of the work for short clips, and what comes
    out there is not read. The result is the same, and as long as the longest clip, rounded up.
    """

    def shorten(layer, args):
        hidden, mask, *others = args
        if mask is None:  # no clip has any
            return args
        reach = hidden.shape[1]
        if layer is layers[0]:
            heard = mask[:, 0, 0] if mask.dtype == torch.bool else mask[:, 0, 0] == 0
            longest = int(heard.any(dim=0).nonzero().max()) + 1
            reach = min(reach, padded_length(longest))
        return hidden[:, :reach], mask[..., :reach, :reach], *others

    for layer in layers:
        layer.register_forward_pre_hook(shorten)


class WhisperActor(SpeechActor):
    """:class:`SpeechActor` with a Whisper encoder."""

    def __init__(self, config):
        super().__init__(config)
        leave_out_padding(self._parts.audio_tower.layers)


def audio_tokens(processor, samples: int) -> int:
    """One mel frame per hop, halved by the second convolution and again by the pooling (modeling_qwen2_audio.py)."""
    frames = -(-samples // processor.feature_extractor.hop_length)
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def unsupported_reason(config) -> str | None:
    """Why a model of this configuration cannot be trained or served; None if it can."""
    # vLLM (multimodal processors of qwen2_audio.py and audioflamingo3.py) hands the encoder 3,000 mel frames, always.
    if config.audio_config.max_source_positions != 1500:
        return f"audio_config.max_source_positions is {config.audio_config.max_source_positions}, vLLM needs 1500"
    # vLLM would tie what the actor keeps apart: transformers' classes have no `_tied_weights_keys`.
    if config.text_config.tie_word_embeddings:
        return "text_config.tie_word_embeddings is true, and transformers' class has an output layer of its own"
    return None
