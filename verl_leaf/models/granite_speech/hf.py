"""Granite Speech for the FSDP actor: transformers' class, adapted to micro-batches (transformers 5.9 to 5.10)."""

import functools
import inspect

import torch
from torch.nn import functional as F
from transformers import GraniteSpeechForConditionalGeneration as Base

from verl_leaf.models.actor import SpeechActor
from verl_leaf.models.placeholder import mask_placeholders

# Granite divides its logits by `logits_scaling`, which is not 1 in the checkpoints. In transformers 5.9 the inner language model
# does so. 5.10's class contains only the layers of the language model, and omits the division.
_source = inspect.getsource(Base)
LOGITS_ARE_NOT_SCALED = "self.lm_head(" in _source and "logits_scaling" not in _source


class GraniteSpeechForConditionalGeneration(SpeechActor, Base):
    """The base class with the same parameters, names and results, except that the placeholder's logit is masked.

    ``features_key``, as in :meth:`verl_leaf.models.features.FeatureCache.fetch`, may replace the audio features. Each
    clip is then encoded alone, and once for all rows that share it. The conformer attends to the padding of a clip, so
    in a batch the result would depend on the other clips, and differ from the rollout engine's.
    """

    # The language model supports it. The encoder's layers are in evaluation mode, in which they ignore it.
    supports_gradient_checkpointing = True

    def __init__(self, config):
        # transformers' Q-Former supports only this (modeling_blip_2.py). The language model keeps its setting.
        config.projector_config._attn_implementation = "eager"
        super().__init__(config)
        for layer in self._parts.encoder.layers:
            layer.conv.batch_norm = Float32BatchNorm(layer.conv.batch_norm)

    def train(self, mode: bool = True):
        """Set the mode of the language model, and keep the frozen encoder in evaluation mode.

        In training mode, its BatchNorm would use the statistics of the batch, and those of the checkpoint would drift
        away from the rollout engine's.
        """
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
        """Return the embeddings of the tokens, ``[rows, tokens, hidden]``, with those of the audio in their places."""
        encoded: dict[int, torch.Tensor] = {}
        for row in rows:
            if id(row) not in encoded:
                clips = row["input_features"].to(self.dtype)
                tokens = [self.get_audio_features(clip[None], return_dict=True).pooler_output[0] for clip in clips]
                encoded[id(row)] = torch.cat(tokens)
        audio = torch.cat([encoded[id(row)] for row in rows])
        return self._parts.get_merged_audio_embeddings(input_ids, audio)


class Float32BatchNorm(torch.nn.BatchNorm1d):
    """A BatchNorm with the statistics of the checkpoint, computed in float32.

    With FSDP's mixed precision its weights are bf16 and its statistics fp32, which torch's own class rejects on a CPU.
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
