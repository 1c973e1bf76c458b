"""verl trains speech models with their language-model head."""

import subprocess
import sys

CODE = """
import transformers, verl
from verl.utils.model import get_hf_auto_model_class
from verl_leaf.patches import STATUS
config = transformers.Qwen2AudioConfig(architectures=["Qwen2AudioForConditionalGeneration"])
solved = "solved upstream" in STATUS["model_class", "verl.utils.model"]
print("stock:", get_hf_auto_model_class.__wrapped__(config) is transformers.AutoModel, solved)
ours = get_hf_auto_model_class(config)
print("ours:", ours.__name__, ours._model_mapping[type(config)].__module__)
text = transformers.Qwen2Config(architectures=["Qwen2ForCausalLM"])
print("text:", get_hf_auto_model_class(text).__name__)
"""


def test_a_speech_model_keeps_its_head():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)  # a fresh registry
    assert "stock: True False\n" in done.stdout or "stock: False True\n" in done.stdout
    assert "ours: AutoModelForImageTextToText verl_leaf.models.qwen2_audio.hf\n" in done.stdout
    assert "text: AutoModelForCausalLM\n" in done.stdout
