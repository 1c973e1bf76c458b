# Copyright 2026 Bytedance Ltd. and/or its affiliates
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

from typing import Any

import numpy as np

DEFAULT_SAMPLING_RATE = 16000  # what the audio encoders of language models hear


def decode_audio(audio: Any, sampling_rate: int = DEFAULT_SAMPLING_RATE) -> np.ndarray:
    """Decode the audio of a message, as it stands in a dataset, to what processors take.

    Args:
        audio: a path or URL; a dict with ``path``, with ``bytes`` of an audio file, or with ``array`` and
            ``sampling_rate``; or a waveform, which is returned as it is.
        sampling_rate: of the result, in Hz.

    Returns:
        np.ndarray: The waveform, of one channel.

    Raises:
        ValueError: an ``array`` has another sampling rate, or a dict has none of these.
    """
    from transformers.audio_utils import load_audio, load_audio_torchcodec

    if isinstance(audio, dict):
        if audio.get("array") is not None:
            if audio.get("sampling_rate") != sampling_rate:
                raise ValueError(
                    f"the audio has a sampling rate of {audio.get('sampling_rate')} Hz, the model takes {sampling_rate}"
                )
            audio = np.asarray(audio["array"], dtype=np.float32)
        elif audio.get("bytes") is not None:
            return load_audio_torchcodec(audio["bytes"], sampling_rate=sampling_rate)
        elif audio.get("path") is not None:
            audio = audio["path"]
        else:
            raise ValueError(f"audio has neither array nor bytes nor path, but {', '.join(audio) or 'nothing'}")
    return load_audio(audio, sampling_rate=sampling_rate)
