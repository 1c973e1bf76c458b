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


def leave_out_padding(tower: torch.nn.Module) -> None:
    """Let an encoder's layers compute only what the longest clip of a batch reaches, instead of 30 s.

    The encoders (transformers' modeling_qwen2_audio.py and modeling_audioflamingo3.py, and vLLM's use of them) fill every
    clip up to 1,500 positions and mask the filling. Attention to nothing is most of the work for short clips, and what comes
    out there is not read. The result is the same, and as long as the longest clip.
    """

    def shorten(layer, args):
        hidden, mask, *others = args
        if mask is None:  # no clip has any
            return args
        reach = hidden.shape[1]
        if layer is tower.layers[0]:
            heard = mask[:, 0, 0] if mask.dtype == torch.bool else mask[:, 0, 0] == 0
            reach = int(heard.any(dim=0).nonzero().max()) + 1
        return hidden[:, :reach], mask[..., :reach, :reach], *others

    for layer in tower.layers:
        layer.register_forward_pre_hook(shorten)


class WhisperFront:
    """Mixin before transformers' class of a model with a Whisper encoder (5.9 to 5.10): makes it fit for FSDP2 and LoRA."""

    def __init__(self, config):
        super().__init__(config)
        tower = self._parts.audio_tower
        tower.embed_positions = PositionTable(tower.embed_positions.weight)
        leave_out_padding(tower)
        # transformers names the encoder's attention, alone or beside the layer around it. veRL shards what is named, and
        # the attention would be resharded while its layer still runs.
        self._no_split_modules = {type(tower.layers[0]).__name__, "Qwen2DecoderLayer"}

    @property
    def _parts(self) -> torch.nn.Module:
        """What holds encoder, projector and language model: transformers 5.10 put a `model` between, 5.9 has none."""
        return getattr(self, "model", self)

    def enable_input_require_grads(self) -> None:
        """For LoRA: only of the language model. transformers (modeling_utils.py) would do the same to the encoder's first
        convolution, and every backward pass would go through the frozen encoder for nothing."""
        self._parts.language_model.enable_input_require_grads()


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
