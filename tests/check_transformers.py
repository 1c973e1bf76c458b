"""Hold our Hugging Face class against another version of transformers, 5.9.0 of veRL's own GPU stack by default.

    pip download --no-deps --dest wheels transformers==5.9.0 && unzip -d source wheels/transformers-5.9.0*.whl
    python tests/check_transformers.py source MODEL

A tiny Qwen2-Audio (MODEL, made by examples/spoken_german/prepare.py) must give the logits that it gives with the
installed version, and gradients in the language model alone. tests/test_gpu_stack.py does the same for vLLM, by reading.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

PROBE = """
import sys, torch, transformers
from transformers import AutoProcessor
from verl_leaf.models.qwen2_audio.hf import Qwen2AudioForConditionalGeneration
processor = AutoProcessor.from_pretrained(sys.argv[1])
model = Qwen2AudioForConditionalGeneration.from_pretrained(sys.argv[1], dtype=torch.float32)
torch.manual_seed(0)
inputs = processor(text=["<|audio_bos|><|AUDIO|><|audio_eos|>Translate"], audio=[torch.randn(16000).numpy()],
                   sampling_rate=16000, return_tensors="pt")
model.requires_grad_(False)
model.enable_input_require_grads()
seen = []
model._parts.multi_modal_projector.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
logits = model(**inputs).logits
assert seen == [False] and logits.requires_grad, "gradients must reach the language model, and it alone"
assert (logits[..., model.config.audio_token_id] == -1e4).all()
torch.save(logits.detach(), sys.argv[2])
print("transformers", transformers.__version__, tuple(logits.shape))
"""


def logits(model: Path, *search_path: Path) -> torch.Tensor:
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*search_path, Path(__file__).parents[1])))}
        subprocess.run([sys.executable, "-c", PROBE, model, file.name], check=True, env=environment)
        return torch.load(file.name)


if __name__ == "__main__":
    source, model = map(Path, sys.argv[1:])
    torch.testing.assert_close(logits(model, source), logits(model), rtol=0, atol=1e-5)
    print("same logits with both versions of transformers")
