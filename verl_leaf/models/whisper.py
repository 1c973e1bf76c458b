"""The common part of models with a Whisper encoder: 30 s windows, 25 audio tokens per second, a table of positions."""

import torch
from torch.nn import functional as F
from transformers import WhisperFeatureExtractor
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput

from verl_leaf.models.actor import SpeechActor
from verl_leaf.models.shapes import padded_length

CHECKPOINT_PREFIXES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.audio_tower.": "audio_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}


def padding(extractor, clips) -> dict:
    """Return a processor's arguments that pad clips only a little beyond the longest, instead of to the whole window.

    The frames of the clip stay the same: none of their windows reaches the end of the padding, where the extractor
    mirrors the signal (transformers' feature_extraction_whisper.py). All frames that still touch the clip are included,
    because one of them may be its loudest.
    """
    frames = padded_length(-(-(max(len(clip) for clip in clips) + 2 * extractor.n_fft) // extractor.hop_length))
    return {"audio_kwargs": {"max_length": min(frames * extractor.hop_length, extractor.n_samples)}}


def without_padding(mel: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Shorten mel frames ``[clips, bins, frames]`` and their mask ``[clips, frames]`` to the length after :func:`padding`."""
    # The convolutions look two frames ahead.
    frames = padded_length(int(mask.sum(dim=1).max()) + 2)
    return mel[..., :frames], mask[:, :frames]


class ShortExtractor(WhisperFeatureExtractor):
    """transformers' feature extractor, which always pads clips as in :func:`padding`.

    For a clip of 3 s, features of silence up to 30 s take longer than everything else that vLLM does before encoding.
    """

    def __call__(self, raw_speech, **arguments):
        return super().__call__(raw_speech, **{**arguments, **padding(self, raw_speech)["audio_kwargs"]})


class FilledExtractor(ShortExtractor):
    """A :class:`ShortExtractor` for callers that need the whole window: the frames that it did not compute are zeros."""

    def __call__(self, raw_speech, **arguments):
        features = super().__call__(raw_speech, **arguments)
        for name in ("input_features", "attention_mask"):
            features[name] = F.pad(features[name], (0, self.nb_max_frames - features[name].shape[-1]))
        return features


def with_extractor(processor, extractor: type[ShortExtractor]):
    """Set the class of the feature extractor of a processor, and return the processor."""
    processor.feature_extractor.__class__ = extractor
    return processor


class ShortWindow:
    """A mixin before transformers' encoder that encodes only the frames up to the longest clip of a batch, instead of 30 s.

    transformers (5.10, modeling_qwen2_audio.py and modeling_audioflamingo3.py) pads every clip to 3,000 frames and
    masks the padding. For short clips, convolutions and attention over the padding are most of the work, and their
    result is not used. There is neither dropout nor LayerDrop, as in the configurations of all released models.
    """

    def forward(self, input_features, attention_mask=None, input_features_mask=None, **_) -> BaseModelOutput:
        """Encode mel frames.

        Args:
            input_features: float ``[clips, bins, frames]``, with an even number of frames.
            attention_mask: mask for the layers, with half as many positions; Qwen2-Audio's caller makes it.
            input_features_mask: ``[clips, frames]``, 1 for frames of the clip; Audio Flamingo 3's caller passes it.

        Returns:
            ``last_hidden_state``: float ``[clips, frames / 4, hidden]``.

        Raises:
            RuntimeError: there are more frames than the window has.
        """
        hidden = F.gelu(self.conv2(F.gelu(self.conv1(input_features.to(self.conv1.weight))))).mT
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        if input_features_mask is not None:
            lengths, _ = self._get_feat_extract_output_lengths(input_features_mask.sum(dim=1, keepdim=True))
            heard = torch.arange(hidden.shape[1], device=hidden.device) < lengths
            attention_mask = create_bidirectional_mask(self.config, hidden, heard)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        return BaseModelOutput(self.layer_norm(self.avg_pooler(hidden.mT).mT))


def shorten_window(encoder: torch.nn.Module) -> None:
    """Turn an encoder of transformers into a :class:`ShortWindow`."""
    kind = type(encoder)
    encoder.__class__ = type(kind.__name__, (ShortWindow, kind), {"__module__": kind.__module__})


class WhisperActor(SpeechActor):
    """A :class:`SpeechActor` with a Whisper encoder."""

    def __init__(self, config):
        super().__init__(config)
        shorten_window(self._parts.audio_tower)


def audio_tokens(processor, samples: int) -> int:
    """Return the number of audio tokens of a clip.

    There is one mel frame per hop, halved by the second convolution and again by the pooling (modeling_qwen2_audio.py).
    """
    return pooled_frames(-(-samples // processor.feature_extractor.hop_length))


def pooled_frames(frames):
    """Return how many positions, one per audio token, the encoder makes of mel frames: an integer, or a tensor of integers."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def unsupported_reason(config) -> str | None:
    """Return why a model of this configuration cannot be trained or served, or None."""
    # vLLM (multimodal processors of qwen2_audio.py and audioflamingo3.py) always passes 3,000 mel frames to the encoder.
    if config.audio_config.max_source_positions != 1500:
        return f"audio_config.max_source_positions is {config.audio_config.max_source_positions}, but vLLM needs 1500"
    # vLLM would tie weights that the actor keeps separate, because transformers' classes have no `_tied_weights_keys`.
    if config.text_config.tie_word_embeddings:
        return "text_config.tie_word_embeddings is true, but transformers' class has a separate output layer"
    return None
