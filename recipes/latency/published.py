"""Networks as others run them, from waveform to clip probabilities: what ours are measured against."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.benchmark.inference import give_statistics
from recipes.benchmark.reference import plain_copy
from weakaudio.audio.frontend import LogMel, kaldi_filters
from weakaudio.networks import Network, WeakCNN
from weakaudio.networks.contract import mean_embedding
from weakaudio.networks.model import Model

Run = Callable[[Tensor], Tensor]
"""Clip probabilities (B, C) of waveforms (B, N)."""

_CLASSES = 527


class EfficientATFrontEnd(nn.Module):
    """The front end of EfficientAT at inference, step by step as it is published: mel filters are made anew for each
    batch there."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(800, periodic=False), persistent=False)
        self.register_buffer("emphasis", torch.tensor([[[-0.97, 1.0]]]), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, N) at 32 kHz to (B, T, 128)."""
        x = F.conv1d(waveform[:, None], self.get_buffer("emphasis"))[:, 0]
        spectrum = torch.stft(
            x, 1024, hop_length=320, win_length=800, window=self.get_buffer("window"), return_complex=True
        )
        power = torch.view_as_real(spectrum).square().sum(-1)  # (B, F, T)
        mel = torch.matmul(kaldi_filters(32000, 1024, 128, 0.0, 15000.0).T, power)
        return (((mel + 1e-5).log() + 4.5) / 5.0).transpose(1, 2)


def efficientat(model: Model) -> Run:
    """A network of EfficientAT behind its own front end, nothing fused, and without scores of segments."""
    return clips_alone(EfficientATFrontEnd(), model.network.eval())


def clips_alone(front_end: Callable[[Tensor], Tensor], network: Network) -> Run:
    """A network as it was trained, which scores clips by their mean embedding, and here no segments."""

    @torch.inference_mode()
    def run(waveform: Tensor) -> Tensor:
        embeddings, mask = network.forward_features(front_end(waveform))
        return network.forward_head(mean_embedding(embeddings, mask)).sigmoid()

    return run


def plain_ns() -> Run:
    """N_S of arXiv 1711.01369 at full width with random weights, behind our log-mel (theirs is librosa's)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = WeakCNN(_CLASSES, coverage="paper")
        give_statistics(network)
    logmel, plain = LogMel("paper-44k"), plain_copy(network).eval()

    @torch.inference_mode()
    def run(waveform: Tensor) -> Tensor:
        probs: Tensor = plain(logmel(waveform)[0])
        return probs

    return run


def yamnet(weights: Path, threads: int) -> Run:
    """YAMNet's TFLite file, which takes patches of 0.975 s, every 0.48 s as in its release; mean over patches."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(weights), num_threads=threads)
    interpreter.allocate_tensors()
    given, said = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    size, hop = prod(map(int, given["shape"])), 7680

    def run(waveform: Tensor) -> Tensor:
        found = []
        for clip in waveform.numpy():
            scores = []
            for start in range(0, max(len(clip) - size, 0) + 1, hop):
                patch = np.resize(clip[start : start + size], size)
                interpreter.set_tensor(given["index"], patch.reshape(given["shape"]))
                interpreter.invoke()
                scores.append(interpreter.get_tensor(said["index"]).reshape(-1))
            found.append(np.mean(scores, axis=0))
        return torch.from_numpy(np.stack(found))

    return run


def ast() -> Run | None:
    """AST of `transformers`, base size, with random weights, behind its own features; None without that package."""
    if importlib.util.find_spec("transformers") is None:
        return None
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    features = ASTFeatureExtractor()
    network = ASTForAudioClassification(ASTConfig(num_labels=_CLASSES)).eval()

    @torch.inference_mode()
    def run(waveform: Tensor) -> Tensor:
        given = features(list(waveform.numpy()), sampling_rate=16000, return_tensors="pt")
        probs: Tensor = network(**given).logits.sigmoid()
        return probs

    return run


def mobilenet_v3() -> Run | None:
    """torchvision's MobileNetV3 (large) with random weights, behind our log-mel; None without that package."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    from torchvision.models import mobilenet_v3_large

    logmel, network = LogMel("32k"), mobilenet_v3_large(num_classes=_CLASSES).eval()

    @torch.inference_mode()
    def run(waveform: Tensor) -> Tensor:
        x = logmel(waveform)[0].transpose(1, 2)[:, None].expand(-1, 3, -1, -1)
        probs: Tensor = network(x).sigmoid()
        return probs

    return run
