"""A tiny random Llama in float64, for packed rows."""

from transformers import LlamaConfig, LlamaForCausalLM


def tiny_llama(vocabulary: int) -> LlamaForCausalLM:
    """Return the model; seed torch before."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).double()
