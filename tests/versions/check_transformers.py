"""Hold our Hugging Face classes against another version of transformers, 5.9.0 of veRL's own GPU stack by default.

    pip download --no-deps --dest wheels transformers==5.9.0 && unzip -d source wheels/transformers-5.9.0*.whl
    python -m tests.versions.check_transformers source MODEL

A tiny model of each family must give the logits that it gives with the installed version, and gradients in the language
model alone. MODEL is the tiny Qwen2-Audio of examples/spoken_german/prepare.py; the others are made with its tokenizer.
tests/versions/test_vllm_api.py does the same for vLLM, by reading.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from tests.helpers import PROJECT
from verl_leaf.selftest.folder import write_folder
from verl_leaf.models import FAMILIES

PROBE = """
import re, sys, torch, transformers
from verl_leaf import patches
patches.install()
from transformers import AutoConfig, AutoProcessor
from verl_leaf.models import FAMILIES
family = FAMILIES[AutoConfig.from_pretrained(sys.argv[1]).model_type]
processor = AutoProcessor.from_pretrained(sys.argv[1])
model = family.load_hf_class().from_pretrained(
    sys.argv[1], dtype=torch.float32, attn_implementation=family.attn_implementation)
torch.manual_seed(0)
ids, features = family.encode(processor, processor.audio_token + "Translate", [torch.randn(16000).numpy()])
model.requires_grad_(False)
model.enable_input_require_grads()
seen = []
for name, module in model.named_modules():
    if re.search(r"projector$", name):
        module.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
logits = model.train()(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)).long(), **features).logits
assert seen == [False] and logits.requires_grad, "gradients must reach the language model, and it alone"
assert (logits[..., model.config.audio_token_id] == -1e4).all()
torch.save(logits.detach(), sys.argv[2])
print("transformers", transformers.__version__, family.model_type, tuple(logits.shape))
"""


def logits(model: Path, *search_path: Path) -> torch.Tensor:
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*search_path, PROJECT)))}
        subprocess.run([sys.executable, "-c", PROBE, model, file.name], check=True, env=environment)
        return torch.load(file.name)


if __name__ == "__main__":
    source, qwen = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as scratch:
        for family in FAMILIES:
            model = qwen
            if family != "qwen2_audio":
                model = Path(scratch) / family
                build(family, qwen, model)
            torch.testing.assert_close(logits(model, source), logits(model), rtol=0, atol=1e-5)
    print("same logits with both versions of transformers")
