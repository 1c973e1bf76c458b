"""What models with a Whisper encoder share: 30 s windows, 25 audio tokens a second, a table of positions."""

import torch
from torch.nn import functional as F

from verl_leaf.models.actor import SpeechActor
from verl_leaf.models.shapes import padded_length

CHECKPOINT_PREFIXES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.audio_tower.": "audio_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}


def padding(extractor, clips) -> dict:
    """Arguments with which a processor fills clips with silence up to a little more than the longest, instead of the window.

    The frames that are heard are the same: none of their windows reaches the end of the silence, where the extractor mirrors
    what is before it (transformers' feature_extraction_whisper.py), and the frames that still touch the clip, of which its
    loudest may be one, are there.
    """
    frames = padded_length(-(-(max(len(clip) for clip in clips) + 2 * extractor.n_fft) // extractor.hop_length))
    return {"audio_kwargs": {"max_length": min(frames * extractor.hop_length, extractor.n_samples)}}


def without_padding(mel: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Shorten mel frames ``[clips, bins, frames]`` and their mask ``[clips, frames]`` to what :func:`padding` leaves."""
    # The convolutions look two frames further.
    frames = padded_length(int(mask.sum(dim=1).max()) + 2)
    return mel[..., :frames], mask[:, :frames]


class WithoutSilence:
    """Before a multimodal processor of vLLM's: computes no features of the silence up to 30 s, which vLLM wants all the same.

    For a clip of 3 s they take longer than all else that vLLM does with it before it is encoded.
    """

    def _call_hf_processor(self, prompt, mm_data, mm_kwargs, tok_kwargs):
        clips = mm_data.get("audios")
        if not clips:
            return super()._call_hf_processor(prompt, mm_data, mm_kwargs, tok_kwargs)
        extractor = self.info.get_hf_processor().feature_extractor
        # `mm_kwargs` choose the Hugging Face processor as well, `tok_kwargs` are arguments of its call alone.
        encoded = super()._call_hf_processor(prompt, mm_data, mm_kwargs, {**tok_kwargs, **padding(extractor, clips)})
        for name in ("input_features", "feature_attention_mask"):
            encoded[name] = F.pad(encoded[name], (0, extractor.nb_max_frames - encoded[name].shape[-1]))
        return encoded


def leave_out_padding(encoder: torch.nn.Module) -> None:
    """Let an encoder take frames up to the longest clip of a batch, and compute no more, instead of 30 s.

    The encoders (transformers' modeling_qwen2_audio.py and modeling_audioflamingo3.py, and vLLM's use of them) take every
    clip filled up to 3,000 frames, of which they make 1,500 positions, and mask the filling. Convolutions of nothing, attention
    to it, and the masks, are most of the work for short clips, and what comes out there is not read. The result is the same,
    and as long as the longest clip, rounded up. transformers' Audio Flamingo 3 makes its mask inside the encoder, of the whole
    window.
    """
    positions = encoder.config.max_source_positions
    frames = 2 * positions  # of the batch at hand

    def filled(values: torch.Tensor, length: int) -> torch.Tensor:
        return F.pad(values, (0, max(0, length - values.shape[-1])))  # too many are for the encoder to refuse

    def fill(_, args, kwargs):
        nonlocal frames
        mel, *others = args
        frames = mel.shape[-1]
        return (filled(mel, 2 * positions), *others), kwargs

    def take_filling_off(_, args):
        return (args[0][..., :frames],)

    def put_filling_on(_, args, convolved):
        return filled(convolved, positions)

    def shorten(layer, args):
        hidden, mask, *others = args
        if mask is None:  # no clip has any
            return args
        reach = hidden.shape[1]
        if layer is encoder.layers[0]:
            heard = mask[:, 0, 0] if mask.dtype == torch.bool else mask[:, 0, 0] == 0
            longest = int(heard.any(dim=0).nonzero().max()) + 1
            reach = min(mask.shape[-1], padded_length(longest))
        return hidden[:, :reach], mask[..., :reach, :reach], *others

    encoder.register_forward_pre_hook(fill, with_kwargs=True)
    encoder.conv1.register_forward_pre_hook(take_filling_off)
    encoder.conv2.register_forward_hook(put_filling_on)
    for layer in encoder.layers:
        layer.register_forward_pre_hook(shorten)


class WhisperActor(SpeechActor):
    """:class:`SpeechActor` with a Whisper encoder."""

    def __init__(self, config):
        super().__init__(config)
        leave_out_padding(self._parts.audio_tower)


def audio_tokens(processor, samples: int) -> int:
    """Return the audio tokens of a clip: one mel frame per hop, halved by the second convolution and again by the pooling
    (modeling_qwen2_audio.py)."""
    return pooled_frames(-(-samples // processor.feature_extractor.hop_length))


def pooled_frames(frames):
    """Return how many positions, one per audio token, the encoder makes of mel frames: an integer, or a tensor of integers."""
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
