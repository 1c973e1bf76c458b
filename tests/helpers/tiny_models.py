"""A tiny random model of a family with the tiny Qwen2-Audio's tokenizer.

python -m tests.helpers.tiny_models FAMILY PROCESSOR_FOLDER OUT
"""

import sys
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from verl_leaf import patches

patches.install()

from verl_leaf.models import FAMILIES  # noqa: E402  (after the patches)
from verl_leaf.models.tiny import write_random  # noqa: E402

if __name__ == "__main__":
    family, processor, out = sys.argv[1:]
    write_random(FAMILIES[family], Path(out), PreTrainedTokenizerFast.from_pretrained(processor))
