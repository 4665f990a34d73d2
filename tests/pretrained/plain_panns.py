"""Reference for PANNs' Cnn14 and its front end: plain functions on the published tensor names, in float64.

Facts: github.com/qiuqiangkong/audioset_tagging_cnn, pytorch/models.py (Cnn14) and pytorch/stft.py.
"""

from __future__ import annotations

import librosa
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

State = dict[str, Tensor]


def random_state(width: float, n_classes: int) -> State:
    """A state dict of the published names and, at width 1, shapes, including the release's front end."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}
    turn = 2 * np.pi * np.outer(np.arange(513), np.arange(1024)) / 1024
    window = librosa.filters.get_window("hann", 1024)
    for name, kernel in (("conv_real", np.cos(turn)), ("conv_imag", -np.sin(turn))):
        state[f"spectrogram_extractor.stft.{name}.weight"] = torch.from_numpy(window * kernel)[:, None].float()
    mel = librosa.filters.mel(sr=32000, n_fft=1024, n_mels=64, fmin=50, fmax=14000)
    state["logmel_extractor.melW"] = torch.from_numpy(mel.T.copy())

    def norm(name: str, channels: int, mean: float = 0.0, deviation: float = 1.0) -> None:
        state[f"{name}.weight"] = 1 + 0.1 * torch.randn(channels, generator=generator)
        state[f"{name}.bias"] = 0.1 * torch.randn(channels, generator=generator)
        state[f"{name}.running_mean"] = mean + 0.2 * torch.randn(channels, generator=generator)
        state[f"{name}.running_var"] = deviation**2 * (1 + torch.rand(channels, generator=generator))
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def weight(name: str, *shape: int) -> None:
        fan = int(np.prod(shape[1:]))
        state[f"{name}.weight"] = (2 / fan) ** 0.5 * torch.randn(shape, generator=generator)

    norm("bn0", 64, mean=-40.0, deviation=3.0)
    inputs = 1
    for n in range(1, 7):
        outputs = round(32 * 2**n * width)
        weight(f"conv_block{n}.conv1", outputs, inputs, 3, 3)
        weight(f"conv_block{n}.conv2", outputs, outputs, 3, 3)
        norm(f"conv_block{n}.bn1", outputs)
        norm(f"conv_block{n}.bn2", outputs)
        inputs = outputs
    for name, outputs in (("fc1", inputs), ("fc_audioset", n_classes)):
        weight(name, outputs, inputs)
        state[f"{name}.bias"] = 0.2 * torch.randn(outputs, generator=generator)
    return state


def probs(published: State, audio: NDArray[np.float32]) -> Tensor:
    """Probabilities (C,) of a clip at 32 kHz, of at least 0.31 s."""
    state = {name: tensor.double() for name, tensor in published.items()}

    def norm(name: str, x: Tensor) -> Tensor:
        parts = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts)

    wave = F.pad(torch.from_numpy(audio.astype(np.float64))[None, None], (512, 512), mode="reflect")
    real, imaginary = (
        F.conv1d(wave, state[f"spectrogram_extractor.stft.conv_{part}.weight"], stride=320)
        for part in ("real", "imag")
    )
    power = (real**2 + imaginary**2)[0].T @ state["logmel_extractor.melW"]
    level = 10 * power.clamp(min=1e-10).log10()  # (time, mel)
    x = norm("bn0", level.T[None, :, :, None])[0, :, :, 0].T[None, None]
    for n in range(1, 7):
        for k in (1, 2):
            x = F.conv2d(x, state[f"conv_block{n}.conv{k}.weight"], padding=1)
            x = F.relu(norm(f"conv_block{n}.bn{k}", x))
        if n < 6:
            x = F.avg_pool2d(x, 2)
    x = x.mean(3)
    x = x.amax(2) + x.mean(2)
    x = F.relu(F.linear(x, state["fc1.weight"], state["fc1.bias"]))
    return F.linear(x, state["fc_audioset.weight"], state["fc_audioset.bias"]).sigmoid()[0]
