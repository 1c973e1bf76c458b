"""Prompts of models with a chat template, and of base models without one."""

import copy
import shutil

import numpy as np
import pytest
from omegaconf import OmegaConf
from transformers import AutoProcessor

from verl_leaf.models import FAMILIES
from verl_leaf.speech.prompt import render_prompt, render_text

CLIP = {"array": np.zeros(16000, dtype=np.float32), "sampling_rate": 16000}
MESSAGES = [
    {"role": "system", "content": "Be brief. "},
    {"role": "user", "content": [{"type": "audio", "audio": CLIP}, {"type": "text", "text": "What is said?"}]},
]


@pytest.fixture(params=FAMILIES)
def family_processor(request, models):
    return AutoProcessor.from_pretrained(models(request.param))


@pytest.fixture(params=FAMILIES)
def base_processor(request, models, tmp_path):
    """Return the processor of a model whose folder has no chat template."""
    folder = shutil.copytree(models(request.param), tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    return AutoProcessor.from_pretrained(folder)


def marker(processor) -> str:
    if "Qwen2" in type(processor).__name__:
        return "<|audio_bos|><|AUDIO|><|audio_eos|>"
    return processor.audio_token


def test_a_base_model_reads_the_messages_with_its_own_markers(base_processor):
    text, clips, _ = render_prompt(base_processor, MESSAGES, OmegaConf.create())
    assert text.count(base_processor.audio_token) == len(clips) == 1
    assert "Be brief." in text and text.index(base_processor.audio_token) < text.index("What is said?")
    if type(base_processor).__name__ == "Qwen2AudioProcessor":
        assert "Audio 1: <|audio_bos|>" in text, "transformers has a template for it"
    else:
        assert text == f"Be brief. {marker(base_processor)}What is said?"


def test_a_chat_template_that_only_the_tokenizer_has_is_used(base_processor):
    if base_processor.chat_template is not None:
        pytest.skip("transformers has a template for it")
    base_processor.tokenizer.chat_template = STRINGS
    assert render_text(base_processor, MESSAGES, {}).startswith("<|im_start|>system\nBe brief. <|im_end|>\n")


def test_a_chat_template_is_used_where_there_is_one(processor):
    text, _, _ = render_prompt(processor, MESSAGES, OmegaConf.create())
    assert text == processor.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)


STRINGS = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
# As Granite's, which joins a text to others.
JOINED = STRINGS.replace("{{ message.content }}", "{{ '' + message.content }}")
TRIMMED = STRINGS.replace("{{ message.content }}", "{{ message.content.strip() }}")


@pytest.mark.parametrize("template", [STRINGS, JOINED, TRIMMED])
def test_a_template_that_takes_only_text_gets_text(family_processor, template):
    family_processor.chat_template = template
    text = render_text(family_processor, MESSAGES, {})
    system = "Be brief." + " " * (template != TRIMMED)
    audio = marker(family_processor)
    assert text == (f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{audio}What is said?<|im_end|>\n")


@pytest.mark.parametrize(
    "template, reason",
    [
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + STRINGS, "no system here"),
        (STRINGS.replace("messages", "messages[1:]"), "it leaves out or changes message 0, 'Be brief.'"),
        (STRINGS.replace("content", "content | upper"), "it leaves out or changes message 0"),
        ("<|AUDIO|>" + STRINGS, "it writes 2 audio marker"),
        ("{{ nobody.knows }}", "'nobody' is undefined"),
        ("{% if %}", "Expected an expression"),
    ],
)  # fmt: skip
def test_a_template_that_loses_something_is_refused(processor, template, reason):
    processor = copy.copy(processor)
    processor.chat_template = template
    with pytest.raises(ValueError, match="the model's chat template cannot be used for this prompt: .*" + reason):
        render_text(processor, MESSAGES, {})
