"""What a row of verl's data must have to be spoken, and the one form that all rows are brought into."""

import decimal
import re

import numpy as np

from verl_leaf.common.names import PLACEHOLDER
from verl_leaf.data.options import DEFAULT_KEYS, Keys
from verl_leaf.data.references import absolute_audio

ROLES = ("system", "user", "assistant", "tool")
OTHER_MEDIA = ("<image>", "<video>")  # verl's own placeholders, which it replaces in any text of a row with audio
EXACT_DIGITS = 15  # a decimal of no more digits is the same again after it was a float of 64 bits


def check_columns(file: str, names: list[str], keys: Keys = DEFAULT_KEYS) -> None:
    """Raise ValueError unless a file has the columns that every row needs."""
    missing = [name for name in ("data_source", keys.prompt, "reward_model") if name not in names]
    if missing:
        raise ValueError(
            f"{file}: no column {', '.join(map(repr, missing))}; it has {', '.join(names)}. "
            "data.prompt_key and data.audio_key say which columns hold prompt and audio"
        )


def spoken_row(row: dict, root: str, keys: Keys = DEFAULT_KEYS) -> dict:
    """Return a row in the one form that the rest of this package knows.

    Args:
        row: as verl takes it: ``data_source``, ``reward_model``, a prompt whose messages hold text or a list of parts,
            and the audios of its placeholders, which may be null or no column at all.
        root: folder that relative paths of audio start from.
        keys: names of the columns.

    Returns:
        The row with ``data_source`` as text; every message's content as text with one ``<audio>`` per clip, and without
        keys that are null; and in ``keys.audio`` the list of the references in the order of their placeholders,
        their paths absolute. Other columns are as they were.

    Raises:
        ValueError: it has not what a row needs; the message says what.
    """
    reward_model = row["reward_model"]
    if not isinstance(reward_model, dict) or reward_model.get("ground_truth") is None:
        raise ValueError("reward_model holds no ground_truth")
    if not isinstance(row.get("extra_info"), dict | None):
        raise ValueError(f"extra_info holds {row['extra_info']!r:.80}; it must be a dictionary or null")
    for key in (keys.image, keys.video):
        if row.get(key):
            raise ValueError(f"the column {key!r} holds something; speech models take text and audio only")
    messages, audios = _messages(row, keys)
    for other in OTHER_MEDIA:
        if audios and any(other in message["content"] for message in messages):
            raise ValueError(f"the prompt holds {other}, which verl takes for the place of one: write it differently")
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
    raise ValueError(f"data_source is {value!r:.80}; it must be a text")


def reference_texts(ground_truth) -> list[str]:
    """Return the texts that a ``ground_truth`` stands for: one, or several that are equally right.

    Raises:
        ValueError: it is no text or number, or a list that is empty or holds something else; or a number that could be
            written in several ways (``42.0``, which pandas makes of 42 in a column with gaps, ``0.30000000000000004``).
    """
    values = ground_truth.tolist() if isinstance(ground_truth, np.ndarray | np.generic) else ground_truth
    values = list(values) if isinstance(values, list | tuple) else [values]
    texts = [text for value in values if (text := _text(value)) is not None]
    if not texts or len(texts) < len(values):
        raise ValueError(
            f"the reference {ground_truth!r:.80} is not text, a number that has one spelling, or a list of these: only a "
            "reward of your own could score it"
        )
    return texts


def _text(value) -> str | None:
    """A reference's text, or None where it has none or more than one."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | decimal.Decimal):
        return None
    text = str(value)
    if isinstance(value, float) and sum(map(str.isdigit, text)) > EXACT_DIGITS:
        return None
    return text if re.fullmatch(r"-?\d+(\.\d*[1-9])?", text) else None


def _messages(row: dict, keys: Keys) -> tuple[list[dict], list]:
    """A prompt's messages with text for content, and all audio in the order of its placeholders."""
    prompt, left, found, messages = row[keys.prompt], row.get(keys.audio), [], []
    if left is None:  # as in verl, none
        left = []
    if not isinstance(left, list):
        raise ValueError(f"the column {keys.audio!r} holds {left!r:.80}; it must be a list with one entry per clip")
    if not isinstance(prompt, list) or not prompt:
        raise ValueError(
            f"the column {keys.prompt!r} holds {prompt!r:.80}; it must be a list of messages, "
            "[{'role': 'user', 'content': '<audio>What is said?'}]"
        )
    for number, message in enumerate(prompt):
        try:
            message, own = _message(message)
        except ValueError as error:
            raise ValueError(f"message {number} of the prompt {error}") from error
        messages.append(message)
        if own is None:  # a text: its audio is the column's next
            count = message["content"].count(PLACEHOLDER)
            own, left = left[:count], left[count:]
        found += own
    placeholders = sum(message["content"].count(PLACEHOLDER) for message in messages)
    if placeholders != len(found) + len(left):
        where = f"in the column {keys.audio!r}" if keys.audio in row else f"for want of a column {keys.audio!r}"
        raise ValueError(
            f"the prompt holds {placeholders} {PLACEHOLDER} placeholder(s), the row {len(found) + len(left)} audio(s) "
            f"{where}, which data.audio_key names; they must be as many"
        )
    _check_turns(messages)
    return messages, found


def _check_turns(messages: list[dict]) -> None:
    """Stop unless a model can take the next turn: at most a system's message, then the user's and others'."""
    roles = [message["role"] for message in messages]
    for number, role in enumerate(roles):
        place = f"message {number} of the prompt"
        if role not in ROLES:
            raise ValueError(f"{place} has the role {role!r:.80}; it must be one of {', '.join(ROLES)}")
        if role == "system" and number > 0:
            raise ValueError(f"{place} has the role 'system', which only the first may have")
        if role == "user" and not messages[number]["content"].strip():
            raise ValueError(f"{place}, of the user, is empty")
    if "user" not in roles:
        raise ValueError("the prompt has no message of the user")
    if roles[-1] == "assistant":
        raise ValueError(
            "the prompt ends with a message of the assistant, which the model is to write: leave it out; the right answer "
            "is reward_model.ground_truth"
        )


def _message(message) -> tuple[dict, list | None]:
    """A message with text for content, and the audio that its parts hold; None where the content was a text."""
    if not isinstance(message, dict):
        raise ValueError(f"is {message!r:.80}, not {{'role', 'content'}}")
    message = {key: value for key, value in message.items() if value is not None}
    for key, kinds in (("role", str), ("content", str | list)):
        if not isinstance(message.get(key), kinds):
            raise ValueError(f"has the {key} {message.get(key)!r:.80}")
    audio = None
    if isinstance(message["content"], list):
        texts, audio = [], []
        for part in message["content"]:
            text, held = _part(part)
            texts.append(text)
            audio += held
        message["content"] = "".join(texts)
    return message, audio


def _part(part) -> tuple[str, list]:
    """The text of a part of a message's content, and its audio: a list of one, or empty.

    Which keys hold audio is as in verl's RLHFDataset._extract_audio_info (verl/utils/dataset/rl_dataset.py). Arrow gives
    every part the keys of all, null where it has none.
    """
    held = {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else {}
    kind = held.pop("type", None)
    if kind == "text" and isinstance(held.get("text"), str):
        if PLACEHOLDER in held["text"]:
            raise ValueError(f"has a part whose text holds {PLACEHOLDER}; among parts, audio is one of its own")
        return held["text"], []
    if kind == "audio" and held:
        return PLACEHOLDER, [held.get("audio", held.get("audio_url", held))]
    raise ValueError(f"has the part {part!r:.80}, which is neither {{'type': 'text', 'text'}} nor audio")
