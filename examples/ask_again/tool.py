"""The tool ``again``: the same sentence, spoken slowly."""

import numpy as np

from verl_leaf.data.audio import load_audio
from verl_leaf.speech.tools import AudioTool


class Again(AudioTool):
    """A tool that returns the clip in ``extra_info.tools_kwargs`` of the row."""

    def hear(self, clips: list[np.ndarray], rate: int, *, clip: str) -> np.ndarray:
        return load_audio(clip, rate)
