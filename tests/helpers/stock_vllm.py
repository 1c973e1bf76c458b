"""Print what vLLM without our plugin answers to an audio prompt: with an adapter, and with a merged model.

The engine for an exported folder is made by the code in its model card.

python -m tests.helpers.stock_vllm MODEL ADAPTER MERGED PROMPT AUDIO
"""

import functools
import json
import os
import re
import sys
from pathlib import Path

os.environ |= {"VLLM_PLUGINS": "", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}

import soundfile
import vllm

vllm.LLM = functools.partial(vllm.LLM, dtype="float32", max_model_len=256, max_num_seqs=4, enforce_eager=True)


def by_card(folder: str) -> dict:
    """Return the ``llm`` of a model card, and the ``adapter`` if it has one."""
    os.chdir(folder)
    *_, code = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    return names


def log_probs(llm, prompt: str, audio: str, adapter=None) -> list[tuple[int, float]]:
    (output,) = llm.generate(
        {"prompt": prompt, "multi_modal_data": {"audio": soundfile.read(audio, dtype="float32")}},
        vllm.SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=0),
        lora_request=adapter,
        use_tqdm=False,
    )
    answer = output.outputs[0]
    return [(token, step[token].logprob) for token, step in zip(answer.token_ids, answer.logprobs, strict=True)]


if __name__ == "__main__":
    model, adapter, merged, prompt, audio = sys.argv[1:]
    adapted = by_card(adapter)
    answers = [
        log_probs(adapted["llm"], prompt, audio, adapted["adapter"]),
        log_probs(by_card(merged)["llm"], prompt, audio),
        log_probs(vllm.LLM(model), prompt, audio),
    ]
    print(json.dumps(answers))
