"""The thinkers of Qwen's Omni models: the part of a checkpoint that hears and writes."""

import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

from verl_leaf.models.actor import SpeechActor, takes_features_key

# Checkpoints contain the whole model. The talker and its vocoder are not loaded.
CHECKPOINT_PREFIXES = {
    "model.": "thinker.model.",
    "lm_head.": "thinker.lm_head.",
    "audio_tower.": "thinker.audio_tower.",
    "visual.": "thinker.visual.",
}


def unsupported_reason(config) -> str | None:
    """Return why a model of this configuration cannot be trained or served, or None."""
    thinker = config.thinker_config
    # vLLM (qwen2.py, qwen3_moe.py) reads the first, transformers (get_expanded_tied_weights_keys) the second.
    text, whole = (getattr(config, "tie_word_embeddings", False) for config in (thinker.text_config, thinker))
    if text != whole:
        return f"text_config.tie_word_embeddings is {str(text).lower()}, but thinker_config's is {str(whole).lower()}"
    return None


class ThinkerActor(SpeechActor):
    """A mixin for transformers' class of a thinker, before which a subclass must name it.

    Parameters, names and results for text and audio are those of transformers' class, except that the logits of
    placeholders are masked. The model is built from the configuration of the whole model, and loads its checkpoints. It
    does not support images and videos.
    """

    _keys_to_ignore_on_load_unexpected = [r"^talker\.", r"^token2wav\.", r"^code2wav\."]

    def __init__(self, config):
        super().__init__(config.thinker_config)

    @property
    def _parts(self):
        return self

    @property
    def _language(self):
        return self.model

    def _encode(self, mel: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Return the audio tokens ``[tokens, hidden]`` of all clips, from mel ``[bins, frames]`` and lengths ``[clips]``."""
        return self.audio_tower(mel, feature_lens=frames).last_hidden_state

    @takes_features_key
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        audio_feature_lengths: torch.Tensor | None = None,
        logits_to_keep: int = 0,
        **_,
    ) -> CausalLMOutputWithPast:
        """Compute logits for text and audio.

        transformers' method also handles images and videos, but supports neither ``audio_feature_lengths`` (which it sets to
        None) nor ``logits_to_keep``.

        Args:
            input_ids: int64 ``[rows, tokens]``, with a placeholder for every audio token.
            position_ids: int64 ``[rows, tokens]``, the same on all axes for text and audio.
            input_features: mel frames of all clips in the order of the rows, ``[frames, mel bins]``.
            audio_feature_lengths: frames of each clip, int64 ``[clips]``.
            logits_to_keep: number of last tokens for which logits are computed, or 0 for all.

        Raises:
            ValueError: the numbers of audio tokens and placeholders differ.
        """
        embeddings = self.get_input_embeddings()(input_ids)
        if input_features is not None:
            audio = self._encode(input_features.T, audio_feature_lengths)
            places = input_ids == self.config.audio_token_id
            if len(audio) != int(places.sum()):
                raise ValueError(f"there are {len(audio)} audio tokens for {int(places.sum())} placeholders")
            embeddings = embeddings.masked_scatter(places[..., None], audio.to(embeddings.dtype))
        if position_ids is not None and position_ids.ndim == 2:
            # Three axes, preceded by the text's positions, from which the mask recognises the sequences in a row.
            position_ids = position_ids.expand(4, *position_ids.shape)
        hidden = self.model(
            inputs_embeds=embeddings, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        return CausalLMOutputWithPast(logits=self.lm_head(hidden[:, -logits_to_keep:]))
