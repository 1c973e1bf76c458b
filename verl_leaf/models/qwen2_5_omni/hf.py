"""Qwen2.5-Omni's thinker for the FSDP actor: transformers' class, adapted to FSDP2 (transformers 5.10)."""

import torch
from transformers import Qwen2_5OmniConfig
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Base
from transformers.modeling_outputs import CausalLMOutputWithPast

from verl_leaf.models.actor import SpeechActor, takes_features_key


class Qwen2_5OmniThinker(SpeechActor, Base):
    """The base class for text and audio, with the same parameters, names and results, except that placeholders are masked.

    It is built from the configuration of the whole model, and loads its checkpoints. It does not support images and videos.
    """

    config_class = Qwen2_5OmniConfig
    _keys_to_ignore_on_load_unexpected = [r"^talker\.", r"^token2wav\."]

    def __init__(self, config: Qwen2_5OmniConfig):
        super().__init__(config.thinker_config)

    @property
    def _parts(self):
        return self

    @property
    def _language(self):
        return self.model

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

        The base class's method also handles images and videos, but supports neither ``audio_feature_lengths`` (which it
        sets to None) nor ``logits_to_keep``.

        Args:
            input_ids: int64 ``[rows, tokens]``, with a placeholder for every audio token.
            attention_mask: mask as in transformers' models.
            position_ids: int64 ``[rows, tokens]``, the same on all axes for text and audio.
            input_features: mel frames of all clips in the order of the rows, ``[frames, mel bins]``.
            audio_feature_lengths: frames of each clip, int64 ``[clips]``.
            logits_to_keep: number of last tokens for which logits are computed, or 0 for all.

        Raises:
            ValueError: the numbers of audio tokens and placeholders differ.
        """
        embeddings = self.get_input_embeddings()(input_ids)
        if input_features is not None:
            audio = self.audio_tower(input_features.T, feature_lens=audio_feature_lengths).last_hidden_state
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
