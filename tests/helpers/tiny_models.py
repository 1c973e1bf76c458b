"""Tiny random models of the other families with the tiny Qwen2-Audio's tokenizer.

python -m tests.helpers.tiny_models FAMILY PROCESSOR_FOLDER OUT
"""

import sys
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from verl_leaf import patches

patches.install()

from verl_leaf.doctor.selftest.folder import write_folder  # noqa: E402  (after the patches)

PLACEHOLDERS = {"granite_speech": ["<|audio|>"], "audioflamingo3": ["<sound>"]}

if __name__ == "__main__":
    family, processor, out = sys.argv[1:]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(processor)
    token = {"additional_special_tokens": PLACEHOLDERS.get(family, [])}
    tokenizer.add_special_tokens(token, replace_extra_special_tokens=False)
    write_folder(family, Path(out), tokenizer)
