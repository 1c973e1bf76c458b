"""What a row of veRL's data must have to be spoken."""

import os

from verl_leaf.speech.names import PLACEHOLDER

REQUIRED_COLUMNS = ("data_source", "prompt", "reward_model")


def check_columns(file: str, names: list[str], audio_key: str = "audios") -> None:
    """Stop unless a file has the columns that a row needs.

    Raises:
        ValueError: it lacks some.
    """
    missing = [name for name in (*REQUIRED_COLUMNS, audio_key) if name not in names]
    if missing:
        raise ValueError(
            f"{file}: no column {', '.join(map(repr, missing))}; it has {', '.join(names)}. "
            "veRL names columns by data.prompt_key and data.audio_key"
        )


def check_row(row: dict, prompt_key: str = "prompt", audio_key: str = "audios") -> None:
    """Stop unless a row has a reference, and as many audios as placeholders.

    Raises:
        ValueError: it has not.
    """
    if not isinstance(row["reward_model"], dict) or row["reward_model"].get("ground_truth") is None:
        raise ValueError("reward_model holds no ground_truth")
    placeholders = sum(str(message["content"]).count(PLACEHOLDER) for message in row[prompt_key])
    if placeholders != len(row[audio_key]):
        raise ValueError(
            f"the prompt holds {placeholders} {PLACEHOLDER} placeholder(s), the column {audio_key!r} "
            f"{len(row[audio_key])} audio(s); they must be as many"
        )


def absolute_audio(audio, root: str):
    """An audio reference whose relative path starts from ``root`` made absolute."""
    if isinstance(audio, str):
        return os.path.join(root, audio)
    if isinstance(audio, dict) and isinstance(audio.get("path"), str) and audio.get("bytes") is None:
        return {**audio, "path": os.path.join(root, audio["path"])}
    return audio
