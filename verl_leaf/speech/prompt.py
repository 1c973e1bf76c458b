"""Chat messages with audio as the text and the waveforms that a model reads."""

import numpy as np
from verl.utils.dataset.rl_dataset import RLHFDataset

from verl_leaf.data.audio import AudioError, audio_name, load_audio
from verl_leaf.data.options import long_audio
from verl_leaf.models import family_of_processor


def render_prompt(processor, messages: list[dict], data_config) -> tuple[str, list[np.ndarray], bool]:
    """Apply the chat template to messages and decode their audio.

    A base model may have no chat template. Qwen2-Audio's processor then has one of its own; elsewhere the text is that of
    the messages, with the model's audio marker in the place of each clip.

    Args:
        processor: Hugging Face processor of a supported family.
        messages: chat messages whose content is text or parts, ``{"type": "audio", "audio": reference}`` among them.
        data_config: verl's ``data`` configuration.

    Returns:
        The rendered text; the waveforms of its audio placeholders in order, float32 mono at the processor's rate, cut to
        the model's window; and whether one was longer.

    Raises:
        AudioError: a clip cannot be used, or is too long and ``data.long_audio`` is ``error``.
    """
    text = _text(processor, messages, data_config.get("apply_chat_template_kwargs") or {})
    family = family_of_processor(processor)
    rate = family.sampling_rate(processor)
    window = int(family.max_seconds * rate)
    clips, is_long = [], False
    for reference in RLHFDataset._extract_audio_info(messages) or []:
        clip = load_audio(reference, rate, seconds=family.max_seconds + 1)  # enough to see that it is longer
        if len(clip) > window:
            if long_audio(data_config) == "error":
                raise AudioError(
                    f"{audio_name(reference)}: lasts more than the {family.max_seconds:g} s that {family.model_type} "
                    "hears: leave the row out, or set data.long_audio=cut or skip (+data.long_audio with verl's own configuration)"
                )
            clip, is_long = clip[:window], True
        tokens = family.audio_tokens(processor, len(clip))
        if tokens < family.min_audio_tokens:
            raise AudioError(
                f"{audio_name(reference)}: lasts {len(clip) / rate:.3f} s and would become {tokens} audio token(s); "
                f"{family.model_type} needs {family.min_audio_tokens}: leave the row out"
            )
        clips.append(clip)
    return text, clips, is_long


def _text(processor, messages: list[dict], template_options: dict) -> str:
    """What the model reads, with one audio marker per clip."""
    if processor.chat_template is not None:
        return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **template_options)
    parts = [
        part
        for message in messages
        for part in (
            [{"type": "text", "text": message["content"]}]
            if isinstance(message["content"], str)
            else message["content"]
        )
    ]
    return "".join(processor.audio_token if part["type"] == "audio" else part.get("text") or "" for part in parts)
