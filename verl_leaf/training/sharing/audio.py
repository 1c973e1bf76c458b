"""Audio in responses: equal placeholders of different clips must not be shared."""

import numpy as np
import torch

Clip = tuple[bytes, int]
"""The key of audio features, and the number of a clip among those of the features."""


class Marks:
    """Negative numbers that replace audio placeholders, one per clip of a micro-batch.

    Then :func:`verl_leaf.training.sharing.pack.pack` merges only placeholders of the same clip, and the packed rows show
    the order of their clips.
    """

    def __init__(self, placeholder: int):
        self._placeholder = placeholder
        self._numbers: dict[Clip, int] = {}

    def mark(self, tokens: np.ndarray, prompt_length: int, keys: list[bytes]) -> np.ndarray:
        """Return a sequence with marks instead of placeholders.

        Args:
            tokens: prompt and response, int64 ``[length]``. Neighbouring placeholders belong to one clip.
            prompt_length: number of prompt tokens.
            keys: key of the prompt's features if it has audio, then the key of each later clip.
        """
        is_audio = tokens == self._placeholder
        is_first = _starts(is_audio.astype(np.int64)[None])[0]
        of_prompt = int(is_first[:prompt_length].sum())
        clips = [(keys[0], number) for number in range(of_prompt)] + [(key, 0) for key in keys[of_prompt > 0 :]]
        marks = np.array([self._numbers.setdefault(clip, -1 - len(self._numbers)) for clip in clips], dtype=np.int64)
        marked = tokens.copy()
        marked[is_audio] = marks[is_first.cumsum()[is_audio] - 1]
        return marked

    def keys(self, marked: torch.Tensor) -> torch.Tensor:
        """Return the keys of the features of packed rows in the order of their placeholders, uint8 ``[keys, 16]``."""
        clips = list(self._numbers)
        rows = np.minimum(marked.numpy(), 0)
        present = [clips[-1 - mark] for mark in rows[_starts(rows)].tolist()]
        keys = bytearray(b"".join(key for key, number in present if number == 0))
        return torch.frombuffer(keys, dtype=torch.uint8).view(-1, 16) if keys else torch.zeros(0, 16, dtype=torch.uint8)

    def tokens(self, marked: torch.Tensor) -> torch.Tensor:
        """Return the tokens with placeholders instead of marks."""
        return marked.where(marked >= 0, self._placeholder)


def _starts(rows: np.ndarray) -> np.ndarray:
    """Return where in ``[rows, columns]`` runs of one number that is not 0 begin, bool."""
    before = np.pad(rows, ((0, 0), (1, 0)))[:, :-1]
    return (rows != 0) & (rows != before)
