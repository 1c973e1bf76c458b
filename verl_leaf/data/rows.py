"""Checks of rows of speech data, and their conversion to one form."""

import decimal
import re

import numpy as np

from verl_leaf.common.names import PLACEHOLDER
from verl_leaf.data.options import DEFAULT_KEYS, Keys
from verl_leaf.data.references import absolute_audio

ROLES = ("system", "user", "assistant", "tool")
OTHER_MEDIA = ("<image>", "<video>")  # verl's placeholders, which it replaces in every text of a row with audio
EXACT_DIGITS = 15  # a decimal with at most this many digits survives the conversion to a 64-bit float


def check_columns(file: str, names: list[str], keys: Keys = DEFAULT_KEYS) -> None:
    """Raise ValueError unless a file has the columns that every row needs."""
    missing = [name for name in ("data_source", keys.prompt, "reward_model") if name not in names]
    if missing:
        raise ValueError(
            f"{file}: there is no column {', '.join(map(repr, missing))}. The columns are {', '.join(names)}. "
            "data.prompt_key and data.audio_key name the columns of prompt and audio"
        )


def spoken_row(row: dict, root: str, keys: Keys = DEFAULT_KEYS) -> dict:
    """Return a row in the one form that the rest of this package uses.

    Args:
        row: row in verl's format: ``data_source``, ``reward_model``, a prompt whose messages contain text or a list of
            parts, and the audios of its placeholders, which may be null or missing.
        root: folder from which relative paths of audio start.

    Returns:
        The row with ``data_source`` as text; with messages whose content is text with one ``<audio>`` per clip, without
        null keys; and with ``keys.audio`` as the list of references in the order of their placeholders, with absolute
        paths. Other columns are unchanged.

    Raises:
        ValueError: the row lacks something. The message says what.
    """
    reward_model = row["reward_model"]
    if not isinstance(reward_model, dict) or reward_model.get("ground_truth") is None:
        raise ValueError("reward_model contains no ground_truth")
    if not isinstance(row.get("extra_info"), dict | None):
        raise ValueError(f"extra_info is {row['extra_info']!r:.80}. It must be a dictionary or null")
    for key in (keys.image, keys.video):
        if row.get(key):
            raise ValueError(f"the column {key!r} is not empty, but speech models use only text and audio. Empty it")
    messages, audios = _messages(row, keys)
    for other in OTHER_MEDIA:
        if audios and any(other in message["content"] for message in messages):
            raise ValueError(f"the prompt contains {other}, which verl reads as a placeholder. Write it differently")
    return row | {
        "data_source": data_source_name(row["data_source"]),
        keys.prompt: messages,
        keys.audio: [absolute_audio(audio, root) for audio in audios],
    }


def data_source_name(value) -> str:
    """Return a data source as text; raise ValueError if it is neither text nor an integer."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"data_source is {value!r:.80}. It must be a text")


def reference_texts(ground_truth) -> list[str]:
    """Return the texts of a ``ground_truth``: one, or several that are equally right.

    Raises:
        ValueError: it is not a text or number, it is a list that is empty or contains something else, or it is a number
            that could be written in several ways (``42.0``, which pandas makes of 42 in a column with gaps,
            ``0.30000000000000004``).
    """
    values = ground_truth.tolist() if isinstance(ground_truth, np.ndarray | np.generic) else ground_truth
    values = list(values) if isinstance(values, list | tuple) else [values]
    texts = [text for value in values if (text := _text(value)) is not None]
    if not texts or len(texts) < len(values):
        raise ValueError(
            f"the reference {ground_truth!r:.80} is not a text, a number with a single spelling, or a list of these. Only a "
            "custom reward could score it"
        )
    return texts


def _text(value) -> str | None:
    """Return a reference's text, or None if it has none or more than one spelling."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | decimal.Decimal):
        return None
    text = str(value)
    if isinstance(value, float) and sum(map(str.isdigit, text)) > EXACT_DIGITS:
        return None
    return text if re.fullmatch(r"-?\d+(\.\d*[1-9])?", text) else None


def _messages(row: dict, keys: Keys) -> tuple[list[dict], list]:
    """Return a prompt's messages with text as content, and all audio in the order of its placeholders."""
    prompt, left, audios, messages = row[keys.prompt], row.get(keys.audio), [], []
    if left is None:  # no audio, as in verl
        left = []
    if not isinstance(left, list):
        raise ValueError(f"the column {keys.audio!r} is {left!r:.80}. It must be a list with one entry per clip")
    if not isinstance(prompt, list) or not prompt:
        raise ValueError(
            f"the column {keys.prompt!r} is {prompt!r:.80}. It must be a list of messages, "
            "[{'role': 'user', 'content': '<audio>What is said?'}]"
        )
    for number, message in enumerate(prompt):
        try:
            message, of_message = _message(message)
        except ValueError as error:
            raise ValueError(f"message {number} of the prompt {error}") from error
        messages.append(message)
        if of_message is None:  # the content was a text, whose audio comes next in the column
            count = message["content"].count(PLACEHOLDER)
            of_message, left = left[:count], left[count:]
        audios += of_message
    placeholders = sum(message["content"].count(PLACEHOLDER) for message in messages)
    if placeholders != len(audios) + len(left):
        where = f"in the column {keys.audio!r}" if keys.audio in row else f"because there is no column {keys.audio!r}"
        raise ValueError(
            f"the prompt contains {placeholders} {PLACEHOLDER} placeholder(s), but the row has {len(audios) + len(left)} audio(s) "
            f"{where}, which data.audio_key names. The numbers must be equal"
        )
    _check_turns(messages)
    return messages, audios


def _check_turns(messages: list[dict]) -> None:
    """Raise an error unless a model can take the next turn; only the first message may be the system's."""
    roles = [message["role"] for message in messages]
    for number, role in enumerate(roles):
        place = f"message {number} of the prompt"
        if role not in ROLES:
            raise ValueError(f"{place} has the role {role!r:.80}. It must be one of {', '.join(ROLES)}")
        if role == "system" and number > 0:
            raise ValueError(f"{place} has the role 'system', which only the first message may have")
        if role == "user" and not messages[number]["content"].strip():
            raise ValueError(f"{place}, a message of the user, is empty")
    if "user" not in roles:
        raise ValueError("the prompt has no message of the user")
    if roles[-1] == "assistant":
        raise ValueError(
            "the prompt ends with a message of the assistant, which the model should write. Remove it; the right answer belongs "
            "into reward_model.ground_truth"
        )


def _message(message) -> tuple[dict, list | None]:
    """Return a message with text as content, and the audio of its parts, or None if the content was a text."""
    if not isinstance(message, dict):
        raise ValueError(f"is {message!r:.80}, not {{'role', 'content'}}")
    message = {key: value for key, value in message.items() if value is not None}
    for key, kinds in (("role", str), ("content", str | list)):
        if not isinstance(message.get(key), kinds):
            raise ValueError(f"has the {key} {message.get(key)!r:.80}")
    if isinstance(message["content"], str):
        return message, None
    parts = [_part(part) for part in message["content"]]
    message["content"] = "".join(text for text, _ in parts)
    return message, [audio for _, audios in parts for audio in audios]


def _part(part) -> tuple[str, list]:
    """Return the text of a part of a message's content, and its audio as a list of one or none.

    The keys of audio are those of verl's RLHFDataset._extract_audio_info (verl/utils/dataset/rl_dataset.py). Arrow
    gives every part all keys, with null for missing ones.
    """
    fields = {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else {}
    kind = fields.pop("type", None)
    if kind == "text" and isinstance(fields.get("text"), str):
        if PLACEHOLDER in fields["text"]:
            raise ValueError(f"has a part whose text contains {PLACEHOLDER}. Among parts, audio needs a separate part")
        return fields["text"], []
    if kind == "audio" and fields:
        return PLACEHOLDER, [fields.get("audio", fields.get("audio_url", fields))]
    raise ValueError(f"has the part {part!r:.80}, which is neither {{'type': 'text', 'text'}} nor audio")
