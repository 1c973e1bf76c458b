"""Which experts vLLM and the actor choose for the same tokens, and how far the tokens' log-probabilities are apart.

python -m tests.helpers.experts FAMILY DTYPE

The model is tiny and random, with as many experts to choose of as Qwen3-Omni 30B-A3B has.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}

import torch
import verl  # noqa: F401  (vLLM gets our classes beside it)
from transformers import AutoProcessor
from vllm import LLM, SamplingParams

from verl_leaf.doctor.selftest.engine import _prompts
from verl_leaf.models import FAMILIES
from verl_leaf.models.tiny import TEXT, write_random

TOKENS, CHOSEN = 32, 8
TEXT |= {"num_experts": 128, "num_experts_per_tok": CHOSEN, "moe_intermediate_size": 32}


def watch(layers) -> list[list[torch.Tensor]]:
    """Return a list for each layer, to which its router adds the logits of the tokens that it sees, in their order."""
    seen: list[list[torch.Tensor]] = [[] for _ in layers]
    for layer, values in zip(layers, seen, strict=True):
        layer.mlp.gate.register_forward_hook(
            lambda gate, given, output, values=values: values.append(output[0].clone())
        )
    return seen


def chosen(seen: list[list[torch.Tensor]]) -> torch.Tensor:
    """Return the experts of each token in each layer, bool ``[layers, tokens, experts]``, and forget them."""
    logits = torch.stack([torch.cat(values).float() for values in seen])
    for values in seen:
        values.clear()
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, logits.topk(CHOSEN).indices, True)


def compare(family, folder: Path, dtype: str) -> dict[str, float]:
    """Sample answers with vLLM, and go through them with the actor."""
    processor = AutoProcessor.from_pretrained(folder)
    actor = family.load_hf_class().from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
    engine = LLM(
        str(folder),
        dtype=dtype,
        max_model_len=1024,
        enforce_eager=True,
        enable_prefix_caching=False,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",
        **{**family.vllm_settings, "lora_target_modules": None},
    )
    rollouts, actors = [], watch(actor.decoder_layers)
    engine.apply_model(lambda model: rollouts.extend(watch(model.language_model.model.layers)))
    sampling = SamplingParams(temperature=1.0, max_tokens=TOKENS, ignore_eos=True, logprobs=0, seed=0)
    differences, others = [], []
    for prompt, (ids, features) in zip(*_prompts(family, processor, "cpu"), strict=True):
        answer = engine.generate(prompt, sampling, use_tqdm=False)[0].outputs[0]
        theirs = [step[token].logprob for token, step in zip(answer.token_ids, answer.logprobs, strict=True)]
        tokens = torch.tensor([[*ids, *answer.token_ids]])
        features = {  # as FSDP's mixed precision hands them over
            name: value.to(actor.dtype) if value.is_floating_point() else value for name, value in features.items()
        }
        with torch.no_grad():
            logits = actor(input_ids=tokens[:, :-1], **features).logits[0, len(ids) - 1 :].float()
        ours = logits.log_softmax(-1).gather(1, tokens[0, len(ids) :, None])[:, 0]
        differences.append((ours - torch.tensor(theirs)).abs())
        different = (chosen(actors) != chosen(rollouts)).any(-1)
        others.append(different[:, len(ids) - 1 :])
    difference, other = torch.cat(differences), torch.cat(others, dim=1)
    return {
        "choices": other.numel(),
        "others": other.float().mean().item(),
        "mean": difference.mean().item(),
        "max": difference.max().item(),
        "mean_with_others": difference[other.any(0)].mean().item() if other.any() else 0.0,
    }


if __name__ == "__main__":
    name, dtype = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        write_random(FAMILIES[name], Path(folder))
        print(json.dumps(compare(FAMILIES[name], Path(folder), dtype)))
