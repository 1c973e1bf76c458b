"""Hold our classes against the libraries of the GPU stack, which run on no machine without a GPU.

    pip download --no-deps --dest wheels vllm==0.24.0 transformers==5.9.0
    for wheel in wheels/*.whl; do python -m wheel unpack --dest source "$wheel"; done
    python tests/check_gpu_stack.py source MODEL

vLLM is read, not imported: every name that our modules take from it must be defined there, and every method that our
class overrides or calls must have the parameters that it has in the installed vLLM. transformers is imported: a tiny
Qwen2-Audio (MODEL, made by examples/spoken_german/prepare.py) must give the log-probabilities that it gives with the
installed version, and gradients on the language model alone.
"""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
OURS = [*PROJECT.glob("verl_leaf/models/*/vllm.py"), *PROJECT.glob("verl_leaf/patches/*.py"), PROJECT / "verl_leaf/plugin.py"]
# Members that our code uses of what it imports: name -> members, compared with the installed version.
MEMBERS = {
    ("vllm.model_executor.models.qwen2_audio", "Qwen2AudioForConditionalGeneration"): ("compute_logits", "load_weights"),
    ("vllm.model_executor.models.module_mapping", "MultiModelKeys"): ("from_string_field",),
    ("vllm.model_executor.models.utils", "AutoWeightsLoader"): ("load_weights",),
    ("vllm.multimodal.registry", "MultiModalRegistry"): ("register_processor",),
}

PROBE = """
import sys, torch, transformers
from verl_leaf.models.qwen2_audio.hf import Qwen2AudioForConditionalGeneration as Ours
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(sys.argv[1])
model = Ours.from_pretrained(sys.argv[1], dtype=torch.float32)
torch.manual_seed(0)
inputs = processor(text=["<|audio_bos|><|AUDIO|><|audio_eos|>Translate"], audio=[torch.randn(16000).numpy()],
                   sampling_rate=16000, return_tensors="pt")
for parameter in model.parameters():
    parameter.requires_grad_(False)
model.enable_input_require_grads()
seen = []
model._parts.multi_modal_projector.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
logits = model(**inputs).logits
assert seen == [False] and logits.requires_grad, "gradients must reach the language model, and it alone"
assert (logits[..., model.config.audio_token_id] == -1e4).all()
torch.save(logits.detach(), sys.argv[2])
print("transformers", transformers.__version__, tuple(logits.shape))
"""


def main(source: Path, model: Path) -> None:
    gpu = {name: next(source.glob(f"{name}-*/{name}")).parent for name in ("vllm", "transformers")}
    here = Path(importlib.util.find_spec("vllm").origin).parents[1]
    for file in OURS:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                for name in node.names:
                    assert defines(gpu["vllm"], node.module, name.name), f"{file.name}: no {node.module}.{name.name}"
                    print("found", node.module, name.name)
    for (module, owner), members in MEMBERS.items():
        for member in members:
            there, installed = (parameters(root, module, owner, member) for root in (gpu["vllm"], here))
            assert there == installed, f"{owner}.{member}: {there}, installed {installed}"
            print("same parameters", owner, member, there)

    import torch

    outputs = []
    for number, path in enumerate((gpu["transformers"], here)):
        outputs.append(source / f"logits{number}.pt")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(PROJECT)])}
        subprocess.run([sys.executable, "-c", PROBE, str(model), str(outputs[-1])], check=True, env=environment)
    torch.testing.assert_close(*(torch.load(output) for output in outputs), rtol=0, atol=1e-5)
    print("same logits with both versions of transformers")


def defines(root: Path, module: str, name: str) -> bool:
    """Whether a module defines, imports or lazily offers a name, or has a submodule of that name."""
    folder = root.joinpath(*module.split("."))
    file = folder.with_suffix(".py") if folder.with_suffix(".py").exists() else folder / "__init__.py"
    return (folder / f"{name}.py").exists() or name in file.read_text()


def parameters(root: Path, module: str, owner: str, member: str) -> list[str]:
    """Names of the parameters of a method, read from the source."""
    tree = ast.parse(root.joinpath(*module.split(".")).with_suffix(".py").read_text())
    cls = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == owner)
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name == member:
            return [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
    raise AssertionError(f"{module}.{owner} has no {member}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
