"""Qwen2.5-Omni's thinker as the FSDP actor trains it: transformers' class, made fit for FSDP2 (transformers 5.10)."""

import torch
from transformers import Qwen2_5OmniConfig
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Base
from transformers.modeling_outputs import CausalLMOutputWithPast

from verl_leaf.models.actor import SpeechActor, takes_features_key


class Qwen2_5OmniThinker(SpeechActor, Base):
    """Same parameters, same names, same numbers as the base class for text and audio, with the placeholders' logits masked.

    It is built from the configuration of the whole model, and loads its checkpoints; images and videos it does not take.
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
        """The base class's is written for images and videos too, and takes neither ``audio_feature_lengths`` (of which it
        makes None) nor ``logits_to_keep``.

        Args:
            input_ids: int64 ``[rows, tokens]``, a placeholder for every audio token.
            attention_mask: as transformers' models take it.
            position_ids: int64 ``[rows, tokens]``: text and audio have the same on all axes.
            input_features: mel frames of all clips in the order of the rows, ``[frames, mel bins]``.
            audio_feature_lengths: frames of each clip, int64 ``[clips]``.
            logits_to_keep: of how many last tokens logits are computed; 0 for all.

        Raises:
            ValueError: audio and placeholders do not match.
        """
        embeddings = self.get_input_embeddings()(input_ids)
        if input_features is not None:
            audio = self.audio_tower(input_features.T, feature_lens=audio_feature_lengths).last_hidden_state
            places = input_ids == self.config.audio_token_id
            if len(audio) != int(places.sum()):
                raise ValueError(f"{len(audio)} audio tokens for {int(places.sum())} placeholders")
            embeddings = embeddings.masked_scatter(places[..., None], audio.to(embeddings.dtype))
        if position_ids is not None and position_ids.ndim == 2:
            # Time, height and width; and before them those of the text, by which the mask tells sequences in a row apart.
            position_ids = position_ids.expand(4, *position_ids.shape)
        hidden = self.model(
            inputs_embeds=embeddings, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        return CausalLMOutputWithPast(logits=self.lm_head(hidden[:, -logits_to_keep:]))
