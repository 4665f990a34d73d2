"""One training step from waveforms: front end, forward, loss, backward, optimiser."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.transforms import AmplitudeToDB, MelSpectrogram

from recipes.benchmark.compare import QUICK, Comparison, Job, Scale, compare, waveforms
from recipes.benchmark.reference import PlainNS
from weakaudio.audio.frontend import get_front_end
from weakaudio.networks import Network, WeakCNN, WindowedCNN
from weakaudio.networks.model import Model
from weakaudio.training.losses import LOSSES

_CLASSES = 527  # of AudioSet


def measure(scale: Scale) -> list[Comparison]:
    """N_S on weak labels and SLAT's network, as the library trains them, against the plain network."""
    torch.manual_seed(0)
    audio = waveforms(scale, get_front_end("paper-44k").sample_rate)
    targets = (torch.rand(scale.clips, _CLASSES) < 0.005).float()
    plain = PlainTagger(scale.width)
    weak, slat = (kind(_CLASSES, width=scale.width) for kind in (WeakCNN, WindowedCNN))
    systems = {
        "WeakCNN, weak loss": _ours(weak, "weak", audio, targets),
        "WindowedCNN, SLAT loss": _ours(slat, "slat", audio, targets),
    }
    reference = _step(plain, lambda: F.binary_cross_entropy(plain(audio), targets))
    return [
        compare("training step", scale, ("torchaudio + plain network", reference), systems),
        _switches(scale),
    ]


def _switches(scale: Scale) -> Comparison:
    """What changes the speed of a step, and not what is learned: at a quarter of the width, as the recipes train."""
    audio = waveforms(scale, get_front_end("16k").sample_rate)
    targets = (torch.rand(scale.clips, _CLASSES) < 0.005).float()

    def job(kind: type[WeakCNN], loss: str, bf16: bool = False, last: bool = False, compiled: bool = False) -> Job:
        network = kind(_CLASSES, n_mels=get_front_end("16k").n_mels, width=max(scale.width / 4, 1 / 16))
        if last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            network.compile(dynamic=True)
        return _ours(network, loss, audio, targets, "16k", bf16)

    systems = {
        "WeakCNN, channels-last": job(WeakCNN, "weak", last=True),
        "WeakCNN, bf16": job(WeakCNN, "weak", bf16=True),
        "WeakCNN, bf16, channels-last": job(WeakCNN, "weak", bf16=True, last=True),
        "WindowedCNN (SLAT), bf16, channels-last": job(WindowedCNN, "slat", bf16=True, last=True),
    }
    if scale is not QUICK:  # compiling takes a minute
        compiled = job(WeakCNN, "weak", bf16=True, last=True, compiled=True)
        systems["WeakCNN, bf16, channels-last, compiled"] = compiled
    return compare("training switches", scale, ("WeakCNN, float32", job(WeakCNN, "weak")), systems)


class PlainTagger(nn.Module):
    """torchaudio's log-mel and the plain network."""

    def __init__(self, width: float) -> None:
        super().__init__()
        fe = get_front_end("paper-44k")
        self.mel = MelSpectrogram(
            fe.sample_rate,
            n_fft=fe.n_fft,
            hop_length=fe.hop_length,
            n_mels=fe.n_mels,
            pad_mode="constant",
            norm="slaney",
            mel_scale="slaney",
        )
        self.level = AmplitudeToDB(top_db=80.0)
        self.network = PlainNS(_CLASSES, width)

    def forward(self, waveform: Tensor) -> Tensor:
        """Clip probabilities (B, C) of waveforms (B, N)."""
        with torch.no_grad():
            frames = self.level(self.mel(waveform)).transpose(1, 2).contiguous()  # (B, T, F)
        probs: Tensor = self.network(frames)
        return probs


def _ours(
    network: Network, loss: str, audio: Tensor, targets: Tensor, front_end: str = "paper-44k", bf16: bool = False
) -> Job:
    model = Model(network, front_end, [f"class {n}" for n in range(_CLASSES)])

    def of_batch() -> Tensor:
        with torch.autocast(audio.device.type, torch.bfloat16, enabled=bf16):
            return LOSSES[loss](model(audio), targets)

    return _step(model, of_batch)


def _step(model: nn.Module, loss: Callable[[], Tensor]) -> Job:
    optimizer = torch.optim.AdamW(model.train().parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step
