"""Granite Speech's feature extractor needs torchaudio, of which there is no CPU build.

transformers/models/granite_speech/feature_extraction_granite_speech.py (5.10.4) makes its mel spectrogram with
``torchaudio.transforms.MelSpectrogram``, whose wheel does not load beside a CPU torch. Where torchaudio is not installed, the
same spectrogram is made with ``torch.stft`` and the filters of transformers.audio_utils.
"""

from types import SimpleNamespace

import torch
import wrapt
from transformers.audio_utils import mel_filter_bank
from transformers.utils import is_torchaudio_available

from verl_leaf.patches.base import STATUS, PatchError

MODULE = "transformers.models.granite_speech.feature_extraction_granite_speech"


class MelSpectrogram(torch.nn.Module):
    """``torchaudio.transforms.MelSpectrogram`` with its defaults: power 2, Hann window, HTK scale, reflected edges."""

    def __init__(self, sample_rate: int, n_fft: int, win_length: int, hop_length: int, n_mels: int):
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        filters = mel_filter_bank(n_fft // 2 + 1, n_mels, 0.0, sample_rate / 2, sample_rate, norm=None, mel_scale="htk")
        self.register_buffer("filters", torch.tensor(filters, dtype=torch.float32), persistent=False)
        self.register_buffer("window", torch.hann_window(win_length), persistent=False)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """``[..., samples]`` to ``[..., n_mels, frames]``."""
        spectrum = torch.stft(
            *(waveform, self.n_fft, self.hop_length, len(self.window), self.window),
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        return (spectrum.abs().square().transpose(-1, -2) @ self.filters).transpose(-1, -2)


def install() -> None:
    if is_torchaudio_available():
        STATUS["granite_mel"] = "not needed: torchaudio is installed"
        return
    wrapt.when_imported(MODULE)(_patch)


def _patch(module) -> None:
    if "granite_mel" in STATUS:  # a process with both veRL and vLLM
        return
    if not callable(getattr(module, "requires_backends", None)) or hasattr(module, "torchaudio"):
        raise PatchError(
            f"{MODULE} is not as in transformers 5.10.4. Install the tested versions: see `verl-leaf doctor`"
        )
    needs = module.requires_backends

    def requires_backends(instance, backends):
        return needs(instance, [name for name in backends if name != "torchaudio"])

    module.requires_backends = requires_backends
    module.torchaudio = SimpleNamespace(transforms=SimpleNamespace(MelSpectrogram=MelSpectrogram))
    STATUS["granite_mel"] = "active: Granite Speech's features need torchaudio, which is not installed"
