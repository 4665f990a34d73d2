"""Reference for EfficientAT: plain functions on the published tensor names, in float64.

Facts: github.com/fschmid56/EfficientAT, models/mn/model.py, block_types.py and models/preprocess.py.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from weakaudio.audio.frontend import kaldi_filters

State = dict[str, Tensor]

# Kernel, channels at width 1 (expanded, out), squeeze-and-excitation, stride of the 15 blocks.
TABLE = [
    (3, 16, 16, 0, 1),
    (3, 64, 24, 0, 2),
    (3, 72, 24, 0, 1),
    (5, 72, 40, 1, 2),
    (5, 120, 40, 1, 1),
    (5, 120, 40, 1, 1),
    (3, 240, 80, 0, 2),
    (3, 200, 80, 0, 1),
    (3, 184, 80, 0, 1),
    (3, 184, 80, 0, 1),
    (3, 480, 112, 1, 1),
    (3, 672, 112, 1, 1),
    (5, 672, 160, 1, 2),
    (5, 960, 160, 1, 1),
    (5, 960, 160, 1, 1),
]
FIRST_HARDSWISH = 7  # blocks before it have a ReLU


def eights(channels: float) -> int:
    """Round to a multiple of 8, at most a tenth below the argument."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def random_state(width: float, n_classes: int) -> State:
    """A state dict of the published names and shapes, under which every layer carries signal."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}

    def normal(*shape: int, std: float) -> Tensor:
        return std * torch.randn(shape, generator=generator)

    def conv(name: str, inputs: int, outputs: int, kernel: int, groups: int = 1) -> None:
        fan = inputs // groups * kernel**2
        state[f"{name}.0.weight"] = normal(outputs, inputs // groups, kernel, kernel, std=(2 / fan) ** 0.5)
        state[f"{name}.1.weight"] = 1 + normal(outputs, std=0.1)
        state[f"{name}.1.bias"] = normal(outputs, std=0.2)
        state[f"{name}.1.running_mean"] = normal(outputs, std=0.2)
        state[f"{name}.1.running_var"] = 1 + torch.rand(outputs, generator=generator)
        state[f"{name}.1.num_batches_tracked"] = torch.tensor(7)

    def linear(name: str, inputs: int, outputs: int) -> None:
        state[f"{name}.weight"] = normal(outputs, inputs, std=inputs**-0.5)
        state[f"{name}.bias"] = normal(outputs, std=0.2)

    channels = eights(16 * width)
    conv("features.0", 1, channels, 3)
    for n, (kernel, expanded, outputs, squeeze, _) in enumerate(TABLE, 1):
        expanded, outputs, part = eights(expanded * width), eights(outputs * width), 0
        if expanded != channels:
            conv(f"features.{n}.block.{part}", channels, expanded, 1)
            part += 1
        conv(f"features.{n}.block.{part}", expanded, expanded, kernel, groups=expanded)
        part += 1
        if squeeze:
            inner = f"features.{n}.block.{part}.conc_se_layers.0"
            linear(f"{inner}.fc1", expanded, eights(expanded // 4))
            linear(f"{inner}.fc2", eights(expanded // 4), expanded)
            part += 1
        conv(f"features.{n}.block.{part}", expanded, outputs, 1)
        channels = outputs
    conv("features.16", channels, 6 * channels, 1)
    linear("classifier.2", 6 * channels, eights(1280 * width))
    linear("classifier.5", eights(1280 * width), n_classes)
    return state


def logmel(audio: NDArray[np.float32]) -> Tensor:
    """Log-mel (1, 1, mel, time)."""
    wave = torch.from_numpy(audio.astype(np.float64))
    wave = wave[1:] - 0.97 * wave[:-1]
    window = torch.hann_window(800, periodic=False, dtype=torch.float64)
    spectrum = torch.stft(wave, 1024, 320, 800, window, center=True, pad_mode="reflect", return_complex=True)
    power = kaldi_filters(32000, 1024, 128, 0.0, 15000.0).T.double() @ spectrum.abs().square()
    return (((power + 0.00001).log() + 4.5) / 5)[None, None]


def logits(published: State, audio: NDArray[np.float32]) -> Tensor:
    """Logits (C,) of a clip at 32 kHz."""
    state = {name: tensor.double() for name, tensor in published.items()}

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.0.weight"]
        groups = x.shape[1] // weight.shape[1]
        y = F.conv2d(x, weight, None, stride, weight.shape[2] // 2, groups=groups)
        norm = [state[f"{name}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(y, *norm, eps=0.001)

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    x = F.hardswish(conv("features.0", logmel(audio), stride=2))
    for n, (_, _, _, squeeze, stride) in enumerate(TABLE, 1):
        act = F.relu if n < FIRST_HARDSWISH else F.hardswish
        parts = sorted({name.split(".")[3] for name in state if name.startswith(f"features.{n}.block.")})
        y = x
        if len(parts) - squeeze == 3:
            y = act(conv(f"features.{n}.block.0", y))
        middle = len(parts) - squeeze - 2
        y = act(conv(f"features.{n}.block.{middle}", y, stride))
        if squeeze:
            inner = f"features.{n}.block.{middle + 1}.conc_se_layers.0"
            gate = linear(f"{inner}.fc2", F.relu(linear(f"{inner}.fc1", y.mean((2, 3))))).sigmoid()
            y = y * gate[:, :, None, None]
        y = conv(f"features.{n}.block.{parts[-1]}", y)
        x = x + y if x.shape == y.shape else y
    x = F.hardswish(conv("features.16", x)).mean((2, 3))
    return linear("classifier.5", F.hardswish(linear("classifier.2", x)))[0]
