"""Prompts of models with a chat template, and of base models without one."""

import shutil

import numpy as np
import pytest
from omegaconf import OmegaConf
from transformers import AutoProcessor

from verl_leaf.models import FAMILIES
from verl_leaf.speech.prompt import render_prompt

CLIP = {"array": np.zeros(16000, dtype=np.float32), "sampling_rate": 16000}
MESSAGES = [
    {"role": "system", "content": "Be brief. "},
    {"role": "user", "content": [{"type": "audio", "audio": CLIP}, {"type": "text", "text": "What is said?"}]},
]


@pytest.fixture(params=FAMILIES)
def base_processor(request, models, tmp_path):
    """Of a model whose folder holds no chat template."""
    folder = shutil.copytree(models(request.param), tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    return AutoProcessor.from_pretrained(folder)


def test_a_base_model_reads_the_messages_with_its_own_markers(base_processor):
    text, clips, _ = render_prompt(base_processor, MESSAGES, OmegaConf.create())
    assert text.count(base_processor.audio_token) == len(clips) == 1
    assert "Be brief." in text and text.index(base_processor.audio_token) < text.index("What is said?")
    if type(base_processor).__name__ == "Qwen2AudioProcessor":
        assert "Audio 1: <|audio_bos|>" in text, "transformers has a template for it"
    else:
        assert text == f"Be brief. {base_processor.audio_token}What is said?"


def test_a_chat_template_is_used_where_there_is_one(processor):
    text, _, _ = render_prompt(processor, MESSAGES, OmegaConf.create())
    assert text == processor.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
