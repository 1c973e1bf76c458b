"""Granite Speech as the FSDP actor trains it: transformers' class, made fit for micro-batches (transformers 5.9 to 5.10)."""

import functools
import inspect

import torch
from torch.nn import functional as F
from transformers import GraniteSpeechForConditionalGeneration as Base

from verl_leaf.models.actor import SpeechActor
from verl_leaf.models.placeholder import mask_placeholders

# Granite divides its logits by `logits_scaling`, which is not 1 in the checkpoints. In transformers 5.9 the language model inside
# does it; 5.10's class has only the layers of one, and forgets it.
_source = inspect.getsource(Base)
LOGITS_ARE_NOT_SCALED = "self.lm_head(" in _source and "logits_scaling" not in _source


class GraniteSpeechForConditionalGeneration(SpeechActor, Base):
    """Same parameters, same names, same numbers as the base class, with the audio placeholder's logit masked.

    ``features_key``, as :meth:`verl_leaf.models.features.FeatureCache.fetch` takes it, may stand in the place of the audio features.
    Each clip is then encoded alone, and once however many rows share it: the conformer sees what a clip is padded with, so
    in a batch its result would depend on its neighbours, and differ from the rollout engine's.
    """

    # Its language model does it, and all layers of the encoder are in evaluation mode, which leaves them alone.
    supports_gradient_checkpointing = True

    def __init__(self, config):
        # transformers' Q-Former has no other (modeling_blip_2.py Blip2QFormerModel). The language model has what is asked for.
        config.projector_config._attn_implementation = "eager"
        super().__init__(config)
        for layer in self._parts.encoder.layers:
            layer.conv.batch_norm = Float32BatchNorm(layer.conv.batch_norm)

    def train(self, mode: bool = True):
        """As the base class, but the frozen encoder stays as it is: its BatchNorm would take the statistics of the
        batch, and let those of the checkpoint drift away from the rollout engine's."""
        super().train(mode)
        self._parts.encoder.eval()
        self._parts.projector.eval()
        return self

    @functools.wraps(Base.forward)
    def forward(self, input_ids=None, features_key=None, **kwargs):
        if features_key is not None:
            kwargs["inputs_embeds"] = self._merged(input_ids, self.feature_cache.fetch(features_key))
            input_ids = None
        output = super().forward(input_ids=input_ids, **kwargs)
        if LOGITS_ARE_NOT_SCALED:
            output.logits.div_(self.config.text_config.logits_scaling)
        mask_placeholders(output.logits, self.config)
        return output

    def _merged(self, input_ids: torch.Tensor, rows: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        """Embeddings of the tokens, ``[rows, tokens, hidden]``, those of the audio in their places."""
        encoded: dict[int, torch.Tensor] = {}
        for row in rows:
            if id(row) not in encoded:
                clips = row["input_features"].to(self.dtype)
                encoded[id(row)] = torch.cat(
                    [self.get_audio_features(clip[None], return_dict=True).pooler_output[0] for clip in clips]
                )
        audio = torch.cat([encoded[id(row)] for row in rows])
        return self._parts.get_merged_audio_embeddings(input_ids, audio)


class Float32BatchNorm(torch.nn.BatchNorm1d):
    """A BatchNorm with the statistics of the checkpoint, computed in float32.

    Under FSDP's mixed precision its weights are bf16 beside statistics in fp32, which torch's own refuses on a CPU.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, norm: torch.nn.BatchNorm1d):
        super().__init__(norm.num_features, eps=norm.eps, device="meta")
        self.weight, self.bias = norm.weight, norm.bias
        for name, statistic in norm.named_buffers():
            self.register_buffer(name, statistic)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        statistics = (self.running_mean.float(), self.running_var.float(), self.weight.float(), self.bias.float())
        return F.batch_norm(hidden.float(), *statistics, training=False, eps=self.eps).to(hidden.dtype)
