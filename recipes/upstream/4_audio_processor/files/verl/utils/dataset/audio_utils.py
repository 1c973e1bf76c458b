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

import os
from typing import Any

import numpy as np

from verl.utils.tokenizer import is_audio_only_processor


def decode_audios(audios: list | None, processor, mm_processor_kwargs: dict | None = None) -> list | None:
    """Decode the audios of a prompt for the processor of an audio-only model.

    Args:
        audios: as they stand in a dataset, see ``decode_audio``.
        processor: what they are for; for other than audio-only models, they are returned as they are.
        mm_processor_kwargs: ``sampling_rate`` goes before the processor's own, as in the call of the processor.

    Returns:
        list | None: The audios, those that were files or dicts as waveforms.

    Raises:
        ValueError: as ``decode_audio``.
    """
    if audios is None or not is_audio_only_processor(processor):
        return audios
    sampling_rate = (mm_processor_kwargs or {}).get("sampling_rate")
    if sampling_rate is None:
        sampling_rate = getattr(getattr(processor, "feature_extractor", None), "sampling_rate", None)
    return [decode_audio(audio, sampling_rate) for audio in audios]


def decode_audio(audio: Any, sampling_rate: int | None) -> Any:
    """Decode the audio of a message, as it stands in a dataset, to what processors take.

    Args:
        audio: a path or URL; the bytes of an audio file; a dict with ``path``, with ``bytes``, or with ``array`` and
            ``sampling_rate``; or anything else, such as a waveform, which is returned as it is.
        sampling_rate: of the result, in Hz.

    Returns:
        The waveform: of what was decoded an array of float32, of shape (samples,).

    Raises:
        ValueError: the sampling rate is not known, an ``array`` has another one, or a dict has none of these.
    """
    from transformers.audio_utils import load_audio, load_audio_torchcodec

    if not isinstance(audio, str | os.PathLike | bytes | dict):
        return audio
    if sampling_rate is None:
        raise ValueError("the processor tells no sampling rate, set data.mm_processor_kwargs.sampling_rate")
    if isinstance(audio, dict):
        if audio.get("array") is not None:
            if audio.get("sampling_rate") != sampling_rate:
                raise ValueError(
                    f"the audio has a sampling rate of {audio.get('sampling_rate')} Hz, the model takes {sampling_rate}"
                )
            return np.asarray(audio["array"], dtype=np.float32)
        # As `datasets` has them, where a path beside the bytes may lead nowhere.
        source = audio.get("bytes") or audio.get("path")
        if not source:
            raise ValueError(f"audio has neither array nor bytes nor path, but {', '.join(audio) or 'nothing'}")
        audio = source
    if isinstance(audio, bytes):
        return load_audio_torchcodec(audio, sampling_rate=sampling_rate)
    return load_audio(os.fspath(audio), sampling_rate=sampling_rate)
