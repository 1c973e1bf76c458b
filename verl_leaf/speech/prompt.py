"""Conversion of chat messages with audio to the text and the waveforms that a model reads."""

from collections.abc import Sequence

import jinja2
import numpy as np
from verl.utils.dataset.rl_dataset import RLHFDataset

from verl_leaf.common.names import PLACEHOLDER
from verl_leaf.data.audio import load_audio
from verl_leaf.data.options import long_audio
from verl_leaf.data.references import AudioError, audio_name
from verl_leaf.models import Family, family_of_processor

# Texts that transformers' processors temporarily put in place of audio, images and videos, and then replace wherever they occur
# (5.10.4, processing_qwen2_audio.py, processing_granite_speech.py, processing_qwen2_5_omni.py).
MARKERS = ("<placeholder>", "<|audio_placeholder|>", "<|image_placeholder|>", "<|video_placeholder|>")
PYTHON_PART = "{'type': "
ANSWER = "answer"  # in the place of what the model has said, when the turn after it is rendered


def render_prompt(
    processor, messages: list[dict], data_config, tools: Sequence[dict] = ()
) -> tuple[str, list[np.ndarray], bool]:
    """Apply the chat template to messages, and decode their audio.

    A base model may have no chat template. Qwen2-Audio's processor has one anyway; for other families the text is that
    of the messages, with the model's audio marker in place of each clip.

    Args:
        messages: chat messages whose content is text or parts, such as ``{"type": "audio", "audio": reference}``.
        data_config: verl's ``data`` configuration.

    Returns:
        The rendered text; the waveforms of its audio placeholders in order, float32 mono at the processor's rate, cut to
            the model's window; and whether a clip was longer than the window.

    Raises:
        ValueError: :func:`render_text` fails, or the text does not name a tool; or, as an :class:`AudioError`, a clip
            cannot be used, or is too long and ``data.long_audio`` is ``error``.
    """
    text = render_text(processor, messages, data_config.get("apply_chat_template_kwargs") or {}, tools)
    for name in (tool["function"]["name"] for tool in tools):
        if name not in text:
            raise ValueError(
                f"the prompt does not name the tool {name!r}, and the model's chat template lists no tools: describe it in a "
                "message of the prompt"
            )
    return text, *_load_clips(processor, messages, data_config)


def render_reply(
    processor, messages: list[dict], reply: dict, data_config, tools: Sequence[dict] = ()
) -> tuple[str, list[np.ndarray]]:
    """Render what a model reads after its answer: the end of its turn, a message to it, and the beginning of its next turn.

    Args:
        processor, data_config, tools: as for :func:`render_prompt`.
        messages: all messages before the answer.
        reply: the message after it.

    Returns:
        The text, and the waveforms of the reply's clips.

    Raises:
        ValueError: :func:`render_prompt` fails, or the chat template does not let a conversation continue.
    """
    text = continued_text(processor, messages, reply, data_config, tools)
    clips, _ = _load_clips(processor, [reply], data_config)
    return text, clips


def continued_text(processor, messages: list[dict], reply: dict, data_config, tools: Sequence[dict] = ()) -> str:
    """Return the text of :func:`render_reply`, without reading audio."""
    options = data_config.get("apply_chat_template_kwargs") or {}
    before = render_text(processor, messages, options, tools) + ANSWER
    text = render_text(processor, answered(messages, reply), options, tools)
    if not text.startswith(before):
        raise ValueError(
            "the model's chat template cannot be used for several turns: what comes before a reply is written differently "
            "with it"
        )
    return text.removeprefix(before)


def answered(messages: list[dict], reply: dict) -> list[dict]:
    """Return the messages, then :data:`ANSWER` in place of the model's answer, then the reply to it."""
    return [*messages, {"role": "assistant", "content": ANSWER}, reply]


def check_clips(family: Family, before: int, more: int) -> None:
    """Raise ValueError if a reply has more clips than the model can take."""
    if more > 1:
        raise ValueError(f"a reply of tools holds {more} clips: at most one may return audio in a turn")
    if more and family.max_clips is not None and before + more > family.max_clips:
        raise ValueError(
            f"a tool returns audio after {before} clip(s), and {family.model_type} takes {family.max_clips} in a "
            "conversation: let the tool return text"
        )


def _load_clips(processor, messages: list[dict], data_config) -> tuple[list[np.ndarray], bool]:
    """Return the clips of messages as :func:`render_prompt` does, and whether one was too long."""
    family = family_of_processor(processor)
    rate = family.sampling_rate(processor)
    window = int(family.max_seconds * rate)
    clips, is_long = [], False
    for reference in RLHFDataset._extract_audio_info(messages) or []:
        clip = load_audio(reference, rate, seconds=family.max_seconds + 1)  # enough to detect that it is longer
        if len(clip) > window:
            if long_audio(data_config) == "error":
                raise AudioError(
                    f"{audio_name(reference)}: the audio is longer than the {family.max_seconds:g} s that {family.model_type} "
                    "supports. Remove the row, or set data.long_audio=cut or skip (+data.long_audio with verl's own configuration)"
                )
            clip, is_long = clip[:window], True
        tokens = family.audio_tokens(processor, len(clip))
        if tokens < family.min_audio_tokens:
            raise AudioError(
                f"{audio_name(reference)}: the audio lasts {len(clip) / rate:.3f} s and would become {tokens} audio token(s), "
                f"but {family.model_type} needs {family.min_audio_tokens}. Remove the row"
            )
        clips.append(clip)
    return clips, is_long


def render_text(processor, messages: list[dict], template_options: dict, tools: Sequence[dict] = ()) -> str:
    """Return the text that the model reads, with one audio marker per clip.

    A chat template may accept parts or only text. If it does not accept parts, text with the model's audio marker is tried.

    Raises:
        ValueError: a text contains special tokens of the tokenizer, or the template loses a part of the messages.
    """
    _check_special_tokens(processor, messages)
    marker = "".join(getattr(processor, f"audio_{name}", "") for name in ("bos_token", "token", "eos_token"))
    as_text = [message | {"content": "".join(_pieces(message, marker))} for message in messages]
    renderer = processor if processor.chat_template is not None else processor.tokenizer
    if renderer.chat_template is None:
        return "".join(message["content"] for message in as_text)
    options = {"tools": list(tools) or None, **template_options}
    reasons = []
    for form in (messages, as_text):
        try:
            text = renderer.apply_chat_template(form, add_generation_prompt=True, tokenize=False, **options)
        except (jinja2.TemplateError, TypeError) as error:
            reasons.append(str(error))
        else:
            if (lost := _lost(processor, messages, text)) is None:
                return text
            reasons.append(lost)
    takes_only_text = "list" in reasons[0]
    raise ValueError(f"the model's chat template cannot be used for this prompt: {reasons[takes_only_text]}")


def _pieces(message: dict, audio: str) -> list[str]:
    """Return the texts of a message, and ``audio`` for each of its clips."""
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [audio if part["type"] == "audio" else part.get("text") or "" for part in parts]


def _check_special_tokens(processor, messages: list[dict]) -> None:
    tokenizer = processor.tokenizer
    special = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.pop(tokenizer.unk_token_id, None)  # stands for unknown text
    has_audio = any(not isinstance(message["content"], str) for message in messages)
    for number, message in enumerate(messages):
        others = [str(value) for key, value in message.items() if key not in ("role", "content")]
        for text in [*_pieces(message, ""), *others]:
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
            wrong = [special[token] for token in tokens if token in special]
            wrong += [marker for marker in (processor.audio_token, *MARKERS) if has_audio and marker in text]
            if wrong:
                raise ValueError(
                    f"message {number} of the prompt contains {wrong[0]!r}, which the model does not read as text. Write it "
                    f"differently; {PLACEHOLDER} stands for a clip"
                )


def _lost(processor, messages: list[dict], text: str) -> str | None:
    """Return which part of its messages a rendered text lacks, or None. Templates may change assistant and tool messages."""
    pieces = [(number, piece) for number, message in enumerate(messages) for piece in _pieces(message, "")]
    for number, piece in pieces:
        if messages[number]["role"] in ("system", "user") and piece.strip() not in text:
            return f"it leaves out or changes message {number}, {piece.strip()!r:.80}"
    clips = len(RLHFDataset._extract_audio_info(messages) or [])
    if text.count(processor.audio_token) != clips:
        return f"it writes {text.count(processor.audio_token)} audio marker(s) {processor.audio_token!r} for {clips} clip(s)"
    if PYTHON_PART in text and not any(PYTHON_PART in piece for _, piece in pieces):
        return "it writes parts of messages as a Python list"
    return None
