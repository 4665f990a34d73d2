"""Networks as others run them, from waveform to clip probabilities: the references of the Pareto front."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.benchmark import plain
from weakaudio.audio.frontend import LogMel
from weakaudio.networks import Network, WeakCNN
from weakaudio.networks.model import Model
from weakaudio.networks.pooling import masked_mean

Run = Callable[[Tensor], Tensor]
"""Clip probabilities (B, C) of waveforms (B, N)."""


_WINDOW = torch.hann_window(800, periodic=False)
_EMPHASIS = torch.tensor([[[-0.97, 1.0]]])


def efficientat_logmel(waveform: Tensor) -> Tensor:
    """(B, N) at 32 kHz to (B, T, 128): EfficientAT's front end at inference, step by step as published, where each
    batch computes the mel filters."""
    from torchaudio.compliance.kaldi import get_mel_banks

    x = F.conv1d(waveform[:, None], _EMPHASIS)[:, 0]
    spectrum = torch.stft(x, 1024, hop_length=320, win_length=800, window=_WINDOW, return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1)  # (B, F, T)
    filters, _ = get_mel_banks(128, 1024, 32000.0, 0.0, 15000.0, 100.0, -500.0, 1.0)
    mel = torch.matmul(F.pad(filters, (0, 1)), power)
    return (((mel + 1e-5).log() + 4.5) / 5.0).transpose(1, 2)


def efficientat(model: Model) -> Run:
    """A network of EfficientAT behind its own front end, nothing fused, without segment scores."""
    return clips_alone(efficientat_logmel, model.network.eval())


def clips_alone(front_end: Callable[[Tensor], Tensor], network: Network) -> Run:
    """A network as it was trained, which scores a clip by its mean embedding; segments are not scored."""

    @torch.inference_mode()
    def run(waveform: Tensor) -> Tensor:
        embeddings, mask = network.forward_features(front_end(waveform))
        return network.forward_head(masked_mean(embeddings, mask)).sigmoid()

    return run


def plain_ns() -> Run:
    """N_S of arXiv 1711.01369 at full width with random weights, behind our log-mel (theirs is librosa's)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = WeakCNN(plain.N_CLASSES, coverage="paper")
        plain.randomise_norms(network)
    logmel, copied = LogMel("paper-44k"), plain.plain_copy(network).eval()
    return torch.inference_mode()(lambda waveform: copied(logmel(waveform)[0]))


def yamnet(weights: Path, threads: int) -> Run:
    """YAMNet's TFLite file, patch by patch; mean over patches."""
    patches = plain.yamnet(weights, threads)

    def run(waveform: Tensor) -> Tensor:
        return torch.from_numpy(
            np.stack([np.mean([x for _, x in patches(clip)], axis=0) for clip in waveform.numpy()])
        )

    return run
