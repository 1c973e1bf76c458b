"""SmolLM2 and Whisper, from the files of the packages to transformers' configurations, weights and tokenizers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from examples.real_speech import ctranslate2, gguf
from examples.real_speech.binary import FormatError
from examples.real_speech.parts import Parts
from verl_leaf.models.qwen2_audio import tiny as qwen2_audio
from verl_leaf.models.tiny import END, PAD, START

Weights = dict[str, torch.Tensor]

AUDIO_TOKENS = dict(zip(qwen2_audio.TOKENS, ("<issue_start>", "<issue_comment>", "<issue_closed>"), strict=True))
"""Qwen2-Audio's special tokens, and the special tokens of SmolLM2 that they replace: it was trained on code with them."""
SPECIAL = 3
"""The type of a special token in a GGUF file."""
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""The parts of a layer: llama.cpp's name, transformers' name."""

# ----- SmolLM2 ---------------------------------------------------------------------------------------------------------


class SmolLM2:
    """The language model, as a Qwen2 whose biases are zero, and its tokenizer with Qwen2-Audio's special tokens."""

    def __init__(self, parts: Parts) -> None:
        self._metadata, self._tensors = gguf.read(parts.gguf)
        if (architecture := self._metadata.get("general.architecture")) != "llama":
            raise FormatError(f"{parts.gguf}: contains a model of architecture {architecture!r}, not 'llama'")

    def _setting(self, name: str) -> Any:
        return self._metadata[f"llama.{name}"]

    def config(self) -> dict[str, Any]:
        """Return the settings of the text model."""
        return {
            "model_type": "qwen2",
            "vocab_size": self._setting("vocab_size"),
            "hidden_size": self._setting("embedding_length"),
            "intermediate_size": self._setting("feed_forward_length"),
            "num_hidden_layers": self._setting("block_count"),
            "num_attention_heads": self._setting("attention.head_count"),
            "num_key_value_heads": self._setting("attention.head_count_kv"),
            "max_position_embeddings": self._setting("context_length"),
            "rms_norm_eps": self._setting("attention.layer_norm_rms_epsilon"),
            "rope_theta": self._setting("rope.freq_base"),
            # The project needs an output layer of its own; it is a copy of the embeddings.
            "tie_word_embeddings": False,
            "bos_token_id": None,
        }

    def weights(self) -> Weights:
        """Return the weights under the names that they have in ``Qwen2ForCausalLM``, float32."""
        tensors = {name: torch.from_numpy(np.array(tensor, np.float32)) for name, tensor in self._tensors.items()}
        embeddings = tensors.pop("token_embd.weight")
        weights = {
            "model.embed_tokens.weight": embeddings,
            "lm_head.weight": embeddings.clone(),
            "model.norm.weight": tensors.pop("output_norm.weight"),
        }
        heads = {"attn_q": self._setting("attention.head_count"), "attn_k": self._setting("attention.head_count_kv")}
        for name, tensor in tensors.items():
            _, number, part, _ = name.split(".")
            layer = f"model.layers.{number}.{LAYER[part]}"
            weights[f"{layer}.weight"] = halves_of_heads(tensor, heads[part]) if part in heads else tensor
            if part in ("attn_q", "attn_k", "attn_v"):
                weights[f"{layer}.bias"] = torch.zeros(len(tensor))
        return weights

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return the tokenizer: byte-level BPE, digits one by one."""
        names = {old: new for new, old in AUDIO_TOKENS.items()}
        tokens = [names.get(token, token) for token in self._metadata["tokenizer.ggml.tokens"]]
        merges = [tuple(merge.split(" ")) for merge in self._metadata["tokenizer.ggml.merges"]]
        bpe = FastTokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        bpe.decoder = decoders.ByteLevel()
        kinds = self._metadata["tokenizer.ggml.token_type"]
        special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == SPECIAL]
        bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
        return PreTrainedTokenizerFast(
            tokenizer_object=bpe,
            bos_token=START,
            eos_token=END,
            pad_token=PAD,
            padding_side="left",
            model_max_length=self._setting("context_length"),
            additional_special_tokens=[START, *AUDIO_TOKENS],
        )


def halves_of_heads(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the rows of queries or keys from llama.cpp's rotary embedding to transformers'.

    llama.cpp rotates neighbouring rows of a head together, transformers a row of its first half and one of its second half.
    """
    return weight.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


# ----- Whisper ---------------------------------------------------------------------------------------------------------


class Whisper:
    """Whisper tiny.en: its encoder, and the whole model for comparison."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._variables = ctranslate2.read(parts.whisper, "WhisperSpec")

    def config(self) -> dict[str, int]:
        """Return the settings of the encoder."""
        width, bins, _ = self._variables["encoder/conv1/weight"].shape
        return {
            "num_mel_bins": bins,
            "d_model": width,
            "encoder_layers": self._layers("encoder"),
            "encoder_attention_heads": int(self._variables["encoder/num_heads"]),
            "encoder_ffn_dim": len(self._variables["encoder/layer_0/ffn/linear_0/weight"]),
            "max_source_positions": len(self._variables["encoder/position_encodings/encodings"]),
        }

    def encoder(self) -> Weights:
        """Return the weights of the encoder under the names that they have in transformers' Whisper, float32."""
        weights = self._stack("encoder", {"self_attention": "self_attn"})
        for convolution in ("conv1", "conv2"):
            weights |= self._linear(f"encoder/{convolution}", convolution)
        return weights

    def model(self) -> WhisperForConditionalGeneration:
        """Return the whole model."""
        tokenizer = self.tokenizer()
        end, start, no_times = tokenizer.convert_tokens_to_ids([PAD, "<|startoftranscript|>", "<|notimestamps|>"])
        ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
        config = WhisperConfig(
            **self.config(),
            **ends,
            vocab_size=len(self._variables["decoder/embeddings/weight"]),
            decoder_layers=self._layers("decoder"),
            decoder_attention_heads=int(self._variables["decoder/num_heads"]),
            decoder_ffn_dim=len(self._variables["decoder/layer_0/ffn/linear_0/weight"]),
            max_target_positions=len(self._variables["decoder/position_encodings/encodings"]),
            decoder_start_token_id=start,
        )
        model = WhisperForConditionalGeneration(config)
        decoder = self._stack("decoder", {"self_attention": "self_attn", "attention": "encoder_attn"})
        decoder["embed_tokens.weight"] = self._tensor("decoder/embeddings/weight")
        weights = {f"model.encoder.{name}": weight for name, weight in self.encoder().items()}
        weights |= {f"model.decoder.{name}": weight for name, weight in decoder.items()}
        load(model, weights, may_miss=("proj_out.weight",))
        model.tie_weights()
        model.generation_config = GenerationConfig(
            **ends, decoder_start_token_id=start, no_timestamps_token_id=no_times
        )
        return model.eval()

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return the tokenizer of the decoder."""
        return PreTrainedTokenizerFast(tokenizer_file=str(self._parts.whisper_tokenizer), eos_token=PAD, pad_token=PAD)

    def extractor(self) -> WhisperFeatureExtractor:
        """Return the feature extractor."""
        return WhisperFeatureExtractor(feature_size=self.config()["num_mel_bins"])

    def _layers(self, side: str) -> int:
        return len(
            {name.split("/")[1] for name in self._variables if name.startswith(f"{side}/layer_") and "ffn" in name}
        )

    def _tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self._variables[name].astype(np.float32))

    def _linear(self, source: str, target: str) -> Weights:
        return {f"{target}.{kind}": self._tensor(f"{source}/{kind}") for kind in ("weight", "bias")}

    def _norm(self, source: str, target: str) -> Weights:
        return {f"{target}.weight": self._tensor(f"{source}/gamma"), f"{target}.bias": self._tensor(f"{source}/beta")}

    def _stack(self, side: str, attentions: dict[str, str]) -> Weights:
        """Return the layers of the encoder or the decoder; ``attentions``: CTranslate2's and transformers' names."""
        weights = self._norm(f"{side}/layer_norm", "layer_norm")
        weights["embed_positions.weight"] = self._tensor(f"{side}/position_encodings/encodings")
        for number in range(self._layers(side)):
            source, target = f"{side}/layer_{number}", f"layers.{number}"
            for theirs, ours in attentions.items():
                weights |= self._norm(f"{source}/{theirs}/layer_norm", f"{target}.{ours}_layer_norm")
                weights |= self._attention(f"{source}/{theirs}", f"{target}.{ours}")
            weights |= self._norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
            weights |= self._linear(f"{source}/ffn/linear_0", f"{target}.fc1")
            weights |= self._linear(f"{source}/ffn/linear_1", f"{target}.fc2")
        return weights

    def _attention(self, source: str, target: str) -> Weights:
        """Return the projections, of which CTranslate2 stacks those with the same input: q, k and v, or k and v."""
        stacks = (("q_proj", "k_proj", "v_proj"), ("out_proj",))
        if f"{source}/linear_2/weight" in self._variables:
            stacks = (("q_proj",), ("k_proj", "v_proj"), ("out_proj",))
        weights = {}
        for number, projections in enumerate(stacks):
            for kind, tensor in self._linear(f"{source}/linear_{number}", "").items():
                for projection, part in zip(projections, tensor.chunk(len(projections)), strict=True):
                    weights[f"{target}.{projection}{kind}"] = part.clone()
        del weights[f"{target}.k_proj.bias"]  # zero: Whisper's keys have none
        return weights


def load(
    model: torch.nn.Module, weights: Weights, may_miss: tuple[str, ...] = (), rename: Callable[[str], str] = str
) -> None:
    """Load weights into a model; only the parameters in ``may_miss`` may keep the values that they have.

    Args:
        model: the model.
        weights: its parameters, under the names that ``rename`` gives them.
        may_miss: names that may be missing.
        rename: the name in ``weights`` of a parameter of the model.

    Raises:
        FormatError: a weight is missing, is unknown or has the wrong shape.
    """
    names = {rename(name): name for name in model.state_dict()}
    try:
        missing, unexpected = model.load_state_dict(
            {names.get(name, name): weight for name, weight in weights.items()}, strict=False
        )
    except RuntimeError as error:  # shapes that differ
        raise FormatError(str(error).splitlines()[-1].strip()) from None
    if missing := sorted({rename(name) for name in missing} - set(may_miss)):
        raise FormatError(f"the package lacks weights of {type(model).__name__}: {', '.join(missing[:3])}")
    if unexpected:
        raise FormatError(
            f"the package has weights that {type(model).__name__} lacks: {', '.join(sorted(unexpected)[:3])}"
        )
