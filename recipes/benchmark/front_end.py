"""The front end against librosa, and against the bare sum of its own parts."""

from __future__ import annotations

from typing import Any

import librosa
import numpy as np
import torch
from numpy.typing import NDArray

from recipes.benchmark.compare import Comparison, Scale, compare, waveforms
from weakaudio.audio.frontend import FrontEnd, LogMel, get_front_end


def measure(scale: Scale) -> list[Comparison]:
    """All clips at once against librosa's clip by clip, for two presets; then against bare parts."""
    return [_against_librosa("paper-44k", scale), _against_librosa("16k", scale), _against_parts(scale)]


def _against_librosa(preset: str, scale: Scale) -> Comparison:
    fe = get_front_end(preset)
    audio = waveforms(scale, fe.sample_rate)
    clips = list(audio.numpy())
    logmel = LogMel(fe)
    with torch.inference_mode():
        return compare(
            f"front end {preset}",
            scale,
            ("librosa", lambda: [librosa_logmel(clip, fe) for clip in clips]),
            {"LogMel": lambda: logmel(audio)},
        )


def librosa_logmel(clip: NDArray[np.float32], fe: FrontEnd) -> NDArray[np.float32]:
    """(F, T) log-mel in dB of a clip (N,)."""
    power: Any = librosa.feature.melspectrogram(
        y=clip,
        sr=fe.sample_rate,
        n_fft=fe.n_fft,
        hop_length=fe.hop_length,
        n_mels=fe.n_mels,
        fmin=fe.f_min,
        fmax=fe.f_max,
    )
    level: NDArray[np.float32] = librosa.power_to_db(power, top_db=fe.top_db)
    return level


def _against_parts(scale: Scale) -> Comparison:
    """Transform, power and filters each alone, on inputs that are ready: what no front end can do without."""
    logmel = LogMel("paper-44k")
    fe, window, filters = logmel.front_end, logmel.window.float(), logmel.filters
    audio = waveforms(scale, fe.sample_rate)

    def transform() -> torch.Tensor:
        return torch.stft(audio, fe.n_fft, fe.hop_length, window=window, pad_mode="constant", return_complex=True)

    with torch.inference_mode():
        spectrum = transform()
        power = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2).contiguous()

        def parts() -> None:
            transform()
            spectrum.real.square() + spectrum.imag.square()
            power @ filters

        name = "bare stft + power + mel product"
        return compare("front end parts", scale, (name, parts), {"LogMel paper-44k": lambda: logmel(audio)})
