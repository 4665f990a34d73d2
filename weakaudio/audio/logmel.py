"""The front end: waveforms to log-mels, with presets that travel inside checkpoints."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import librosa
import torch
from torch import Tensor, nn

from weakaudio.audio.segments import frame_count, frame_counts, length_mask
from weakaudio.errors import WeakAudioError

_AMIN = 1e-10  # power below which the logarithm is not taken: librosa's default


@dataclass(frozen=True)
class FrontEnd:
    """All numbers of a log-mel. Level in dB is `10 * log10(max(mel power, 1e-10))`, then `(level + shift) * gain`."""

    name: str
    sample_rate: int
    """Hz"""
    n_fft: int
    """samples"""
    hop_length: int
    """samples"""
    n_mels: int
    f_min: float = 0.0
    """Hz"""
    f_max: float | None = None
    """Hz; None is half the sample rate"""
    top_db: float | None = None
    """floor, in dB under the clip's own maximum; None leaves the fixed floor of -100 dB"""
    shift: float = 0.0
    """dB"""
    gain: float = 1.0
    """1/dB"""
    double: bool = False
    """transform in float64: in float32 weak bands beside strong ones are off by up to 2e-3 dB"""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def n_frames(self, n_samples: int) -> int:
        """Frames of a clip of `n_samples` samples at this front end's rate."""
        return frame_count(n_samples, self.hop_length)


# `paper-44k` is the input of arXiv 1711.01369: librosa's `power_to_db(melspectrogram(...))` with its defaults.
# The others have a fixed floor, so that a block equals the whole, and are scaled so that silence is exactly 0:
# what convolutions pad with is then silence, too (in dB it would be a loud 0 dB).
FRONT_ENDS: dict[str, FrontEnd] = {
    front_end.name: front_end
    for front_end in (
        FrontEnd("paper-44k", 44100, n_fft=1024, hop_length=512, n_mels=128, top_db=80.0, double=True),
        FrontEnd("32k", 32000, n_fft=1024, hop_length=320, n_mels=128, f_min=20.0, shift=100.0, gain=0.02),
        FrontEnd("16k", 16000, n_fft=512, hop_length=160, n_mels=64, f_min=20.0, shift=100.0, gain=0.02),
    )
}


def get_front_end(name: str) -> FrontEnd:
    """A preset by name.

    Raises
    ------
    WeakAudioError
        No preset of that name.
    """
    try:
        return FRONT_ENDS[name]
    except KeyError:
        raise WeakAudioError(f"front end {name!r}: unknown; there are {', '.join(FRONT_ENDS)}") from None


class LogMel(nn.Module):
    """Waveforms (B, N) to log-mels (B, T, F), on any device, in float32 also inside autocast.

    Frames are centred, and what lies outside a clip counts as zeros; so padding a clip with zeros to fit a
    batch does not change any of its own frames.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, front_end: FrontEnd | str) -> None:
        super().__init__()
        self.front_end = get_front_end(front_end) if isinstance(front_end, str) else front_end
        fe = self.front_end
        filters = librosa.filters.mel(  # Slaney's scale and area normalisation
            sr=fe.sample_rate, n_fft=fe.n_fft, n_mels=fe.n_mels, fmin=fe.f_min, fmax=fe.f_max
        )
        # Derived from the preset, so not part of a checkpoint's tensors.
        self.register_buffer("filters", torch.from_numpy(filters.T.copy()), persistent=False)  # (n_fft // 2 + 1, F)
        # Float64 only where the preset asks for it: not every device has it.
        window = torch.hann_window(fe.n_fft, dtype=torch.float64)
        self.register_buffer("window", window if fe.double else window.float(), persistent=False)

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-mels and their lengths.

        Parameters
        ----------
        waveform
            (B, N) at the front end's sample rate, full scale at +-1; zeros after the end of a shorter clip.
        lengths
            (B,) samples of each clip; None means all N.

        Returns
        -------
        logmel, n_frames
            (B, T, F) float32, with 0 after the end of a shorter clip, and (B,) int64 frames of each clip.
        """
        fe = self.front_end
        if lengths is None:
            lengths = torch.full((len(waveform),), waveform.shape[1], dtype=torch.int64, device=waveform.device)
        with torch.autocast(waveform.device.type, enabled=False):
            # On a CPU clip by clip: what belongs to one fits its cache. A GPU takes all at once.
            parts = waveform.split(1) if waveform.device.type == "cpu" else (waveform,)
            mel = torch.cat([self._mel_power(part) for part in parts])
            level = mel.clamp_(min=_AMIN).log10_().mul_(10.0)
        n_frames = frame_counts(lengths, fe.hop_length)
        mask = length_mask(n_frames, level.shape[1])[:, :, None]
        if fe.top_db is not None:
            loudest = level.masked_fill(~mask, -torch.inf).amax(dim=(1, 2), keepdim=True)
            level = torch.maximum(level, loudest - fe.top_db)
        if (fe.shift, fe.gain) != (0.0, 1.0):
            level = level.add_(fe.shift).mul_(fe.gain)
        return level.masked_fill_(~mask, 0.0), n_frames

    def _mel_power(self, waveform: Tensor) -> Tensor:
        """(B, T, F) float32"""
        fe = self.front_end
        spectrum = torch.stft(
            waveform.to(self.window.dtype),
            fe.n_fft,
            fe.hop_length,
            window=self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        ).transpose(1, 2)  # (B, T, n_fft // 2 + 1), the order in which it lies in memory
        power = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)
        return power.float() @ self.filters
