"""Prompts of models with a chat template, and of base models without one."""

import copy
import shutil

import numpy as np
import pytest
from omegaconf import OmegaConf
from transformers import AutoProcessor

from verl_leaf.models import FAMILIES, family_of_processor
from verl_leaf.speech.prompt import ANSWER, answered, check_clips, render_prompt, render_reply, render_text

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
    if "Qwen3Omni" in type(processor).__name__:
        return "<|audio_start|><|audio_pad|><|audio_end|>"
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


TEXT = {"role": "user", "content": "And again?"}
AUDIO = {"role": "user", "content": [{"type": "audio", "audio": CLIP}, {"type": "text", "text": "And this?"}]}


@pytest.mark.parametrize("turns", [[TEXT], [AUDIO], [TEXT, AUDIO], [AUDIO, AUDIO, TEXT]])
def test_turns_one_by_one_are_the_conversation_at_once(family_processor, turns):
    """Text, clips and tokens."""
    family, options = family_of_processor(family_processor), OmegaConf.create()
    messages = MESSAGES
    text, clips, _ = render_prompt(family_processor, messages, options)
    ids, _ = family.encode(family_processor, text, clips)
    for reply in turns:
        more, heard = render_reply(family_processor, messages, reply, options)
        ids += family_processor.tokenizer(ANSWER)["input_ids"] + family.encode(family_processor, more, heard)[0]
        text, clips, messages = text + ANSWER + more, clips + heard, answered(messages, reply)
    whole, all_clips, _ = render_prompt(family_processor, messages, options)
    assert text == whole and list(map(len, clips)) == list(map(len, all_clips))
    if family.max_clips is None or len(clips) <= family.max_clips:
        assert ids == family.encode(family_processor, whole, all_clips)[0]
    else:
        with pytest.raises(
            ValueError, match=rf"{family.model_type} takes 1 in a conversation: let the tool return text"
        ):
            check_clips(family, 1, 1)


def test_a_reply_has_one_clip(family_processor):
    with pytest.raises(ValueError, match="a reply of tools holds 2 clips"):
        check_clips(family_of_processor(family_processor), 0, 2)


def test_a_template_that_rewrites_what_came_before_is_refused(processor):
    processor = copy.copy(processor)
    processor.chat_template = "{{ messages | length }}" + STRINGS
    with pytest.raises(
        ValueError, match="cannot be used for several turns: what comes before a reply is written differ"
    ):
        render_reply(processor, MESSAGES, TEXT, OmegaConf.create())


@pytest.mark.parametrize("lists", [True, False])
def test_the_prompt_must_name_its_tools(processor, lists):
    """The chat template does it, or a message."""
    processor, tool = copy.copy(processor), {"type": "function", "function": {"name": "crop"}}
    processor.chat_template = "{{ tools | tojson }}" * lists + STRINGS
    system = {"role": "system", "content": "You may call crop."}
    for messages in (MESSAGES, [system, *MESSAGES[1:]]):
        if lists or "crop" in messages[0]["content"]:
            render_prompt(processor, messages, OmegaConf.create(), [tool])
        else:
            with pytest.raises(ValueError, match="the prompt does not name the tool 'crop', and .* lists no tools"):
                render_prompt(processor, messages, OmegaConf.create(), [tool])
