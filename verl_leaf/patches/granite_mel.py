"""Granite Speech's feature extractor needs torchaudio, of which there is no CPU build.

transformers/models/granite_speech/feature_extraction_granite_speech.py (5.10.4) makes its mel spectrogram with
``torchaudio.transforms.MelSpectrogram``, but torchaudio's wheel does not load with a CPU torch. If torchaudio is not
installed, the same spectrogram is made with ``torch.stft`` and the filters of transformers.audio_utils.
"""

import functools
from types import ModuleType, SimpleNamespace

import torch
from transformers.audio_utils import mel_filter_bank
from transformers.utils import is_torchaudio_available

from verl_leaf.patches.base import TESTED_VERSIONS, PatchError, expect


class MelSpectrogram(torch.nn.Module):
    """``torchaudio.transforms.MelSpectrogram`` with its defaults: power 2, Hann window, HTK scale, reflection."""

    def __init__(self, sample_rate: int, n_fft: int, win_length: int, hop_length: int, n_mels: int):
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        filters = mel_filter_bank(n_fft // 2 + 1, n_mels, 0.0, sample_rate / 2, sample_rate, norm=None, mel_scale="htk")
        self.register_buffer("filters", torch.tensor(filters, dtype=torch.float32), persistent=False)
        self.register_buffer("window", torch.hann_window(win_length), persistent=False)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return ``[..., n_mels, frames]`` from ``[..., samples]``."""
        spectrum = torch.stft(
            *(waveform, self.n_fft, self.hop_length, len(self.window), self.window),
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        return (spectrum.abs().square().transpose(-1, -2) @ self.filters).transpose(-1, -2)


def _patch(module: ModuleType) -> str:
    needs = expect(module, "requires_backends", "obj", "backends")
    if is_torchaudio_available():
        return "not needed: torchaudio is installed"
    if "torchaudio" in vars(module):
        raise PatchError(f"{module.__name__} has a torchaudio, although none is installed. {TESTED_VERSIONS}")

    @functools.wraps(needs)
    def requires_backends(obj, backends):
        return needs(obj, [name for name in backends if name != "torchaudio"])

    module.requires_backends = requires_backends
    module.torchaudio = SimpleNamespace(transforms=SimpleNamespace(MelSpectrogram=MelSpectrogram))
    return "active: Granite Speech's features need torchaudio, which is not installed"


HOOKS = {"transformers.models.granite_speech.feature_extraction_granite_speech": _patch}
