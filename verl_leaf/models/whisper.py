"""What models with a Whisper encoder share: 30 s windows, 25 audio tokens a second, a table of positions."""

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


class ShortExtractor(WhisperFeatureExtractor):
    """transformers' feature extractor, which fills clips as :func:`padding` says whoever calls it.

    For a clip of 3 s, features of silence up to 30 s take longer than all else that vLLM does with it before it is encoded.
    """

    def __call__(self, raw_speech, **arguments):
        return super().__call__(raw_speech, **{**arguments, **padding(self, raw_speech)["audio_kwargs"]})


class FilledExtractor(ShortExtractor):
    """A :class:`ShortExtractor` for those who want the whole window: the frames that it did not compute are zeros."""

    def __call__(self, raw_speech, **arguments):
        features = super().__call__(raw_speech, **arguments)
        for name in ("input_features", "attention_mask"):
            features[name] = F.pad(features[name], (0, self.nb_max_frames - features[name].shape[-1]))
        return features


def with_extractor(processor, extractor: type[ShortExtractor]):
    """Return a processor of transformers', whose feature extractor is of another class from now on."""
    processor.feature_extractor.__class__ = extractor
    return processor


class ShortWindow:
    """Before an encoder of transformers': takes frames up to the longest clip of a batch, instead of 30 s of them.

    transformers (5.10, modeling_qwen2_audio.py and modeling_audioflamingo3.py) fills every clip up to 3,000 frames and masks
    the filling. Convolutions of nothing and attention to it are most of the work for short clips, and nothing reads what comes
    out there. There is neither dropout nor LayerDrop, as in the configurations of all released models.
    """

    def forward(self, input_features, attention_mask=None, input_features_mask=None, **_) -> BaseModelOutput:
        """Encode mel frames.

        Args:
            input_features: float ``[clips, bins, frames]``, an even number of frames.
            attention_mask: as the layers take it, of half as many positions; Qwen2-Audio's caller makes it.
            input_features_mask: ``[clips, frames]``, 1 for those of the clip; Audio Flamingo 3's caller has it.

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
    """Make an encoder of transformers' a :class:`ShortWindow`."""
    kind = type(encoder)
    encoder.__class__ = type(kind.__name__, (ShortWindow, kind), {"__module__": kind.__module__})


class WhisperActor(SpeechActor):
    """:class:`SpeechActor` with a Whisper encoder."""

    def __init__(self, config):
        super().__init__(config)
        shorten_window(self._parts.audio_tower)


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
