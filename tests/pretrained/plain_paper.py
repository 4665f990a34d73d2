"""Reference for the released N_S: plain functions on the published tensor names, in float64.

Facts: github.com/anuragkr90/weak_feature_extractor, network_architectures.py and feat_extractor.py.
"""

from __future__ import annotations

import librosa
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

State = dict[str, Tensor]

POOLS = (3, 6, 9, 12, 15, 17)
CHANNELS = {1: 16, 2: 16, 4: 32, 5: 32, 7: 64, 8: 64, 10: 128, 11: 128, 13: 256, 14: 256, 16: 512, 18: 1024}


def random_state(n_classes: int, prefix: str = "") -> State:
    """A state dict of the published names and shapes; PyTorch had no batch counters then."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}

    def conv(name: str, inputs: int, outputs: int, kernel: int) -> None:
        shape = (outputs, inputs, kernel, kernel)
        state[f"{name}.weight"] = (2 / (inputs * kernel**2)) ** 0.5 * torch.randn(shape, generator=generator)
        state[f"{name}.bias"] = 0.2 * torch.randn(outputs, generator=generator)

    inputs = 1
    for n, outputs in CHANNELS.items():
        conv(f"layer{n}.0", inputs, outputs, 2 if n == 18 else 3)
        for part, center, spread in (("weight", 1.0, 0.1), ("bias", 0.0, 0.2), ("running_mean", 0.0, 0.2)):
            state[f"layer{n}.1.{part}"] = center + spread * torch.randn(outputs, generator=generator)
        state[f"layer{n}.1.running_var"] = 1 + torch.rand(outputs, generator=generator)
        inputs = outputs
    state["layer1.1.running_var"] *= 40**2  # the input is in dB
    conv("layer19.0", 1024, n_classes, 1)
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def segment_probs(published: State, audio: NDArray[np.float32]) -> Tensor:
    """Segment probabilities (K, C) of a clip at 44.1 kHz; the clip's are their mean."""
    state = {name.removeprefix("module."): tensor.double() for name, tensor in published.items()}
    power = librosa.feature.melspectrogram(y=audio, sr=44100, n_fft=1024, hop_length=512, n_mels=128)
    rows = librosa.power_to_db(power).T
    if len(rows) < 128:
        rows = np.concatenate([rows, np.zeros((128 - len(rows), 128))])
    x = torch.from_numpy(rows.astype(np.float64))[None, None]  # time x mel
    for n in range(1, 19):
        if n in POOLS:
            x = F.max_pool2d(x, 2)
            continue
        x = F.conv2d(x, state[f"layer{n}.0.weight"], state[f"layer{n}.0.bias"], padding=0 if n == 18 else 1)
        norm = [state[f"layer{n}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        x = F.relu(F.batch_norm(x, *norm))
    x = F.conv2d(x, state["layer19.0.weight"], state["layer19.0.bias"]).sigmoid()
    return x[0, :, :, 0].T
