"""The references: what one would write without this package, and networks as others release them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weakaudio.audio.frontend import FrontEnd, get_front_end
from weakaudio.audio.geometry import timeline
from weakaudio.inference.postprocess import PostProcessing, Scores, find_events
from weakaudio.networks import Network, WeakCNN
from weakaudio.networks.model import Model

N_CLASSES = 527  # of AudioSet
_CHANNELS = (16, 32, 64, 128, 256, 512)
_YAMNET_RATE, _YAMNET_HOP = 16000, 7680  # Hz; samples from one patch of 0.975 s to the next, as in its release


def librosa_logmel(clip: NDArray[np.float32], fe: FrontEnd) -> NDArray[np.float32]:
    """Log-mel (F, T) in dB of a clip (N,)."""
    power: Any = librosa.feature.melspectrogram(
        y=clip,
        sr=fe.sample_rate,
        n_fft=fe.n_fft,
        win_length=fe.win_length,
        hop_length=fe.hop_length,
        n_mels=fe.n_mels,
        fmin=fe.f_min,
        fmax=fe.f_max,
    )
    level: NDArray[np.float32] = librosa.power_to_db(power, top_db=fe.top_db)
    return level


class PlainNS(nn.Module):
    """Layers of arXiv 1711.01369, table 1, for log-mels of 128 mels, nothing fused, nothing skipped."""

    def __init__(self, n_classes: int, width: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for number, channels in enumerate(round(c * width) for c in _CHANNELS):
            for _ in range(2 if number < 5 else 1):
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
                inputs = channels
            layers.append(nn.MaxPool2d(2))
        wide = round(1024 * width)
        layers += [nn.Conv2d(inputs, wide, 2), nn.BatchNorm2d(wide), nn.ReLU()]
        layers += [nn.Conv2d(wide, n_classes, 1), nn.Sigmoid()]
        self.layers = nn.Sequential(*layers)

    def forward(self, logmel: Tensor) -> Tensor:
        """Clip probabilities (B, C) of log-mels (B, T, 128)."""
        segments: Tensor = self.layers(logmel[:, None])  # (B, C, S, 1)
        return segments.mean((2, 3))


def plain_copy(network: WeakCNN) -> PlainNS:
    """`PlainNS` with the weights of a `WeakCNN` that is not fused."""
    plain = PlainNS(network.classifier.out_features, network.config["width"])
    kinds = (nn.Conv2d, nn.BatchNorm2d)
    ours = [module for module in network.modules() if isinstance(module, kinds)]
    *theirs, last = [module for module in plain.modules() if isinstance(module, kinds)]
    for target, source in zip(theirs, ours, strict=True):
        target.load_state_dict(source.state_dict())
    classifier = network.classifier
    last.load_state_dict({"weight": classifier.weight[:, :, None, None], "bias": classifier.bias})
    return plain.train(network.training)


def randomise_norms(network: Network) -> None:
    """Draw batch-norm statistics and scales as after training, so that folding them has work to do."""
    for module in network.eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)


def torchaudio_logmel() -> Callable[[Tensor], Tensor]:
    """The log-mel `paper-44k` (B, T, F) of waveforms (B, N)."""
    from torchaudio.transforms import AmplitudeToDB, MelSpectrogram

    fe = get_front_end("paper-44k")
    sizes = {"n_fft": fe.n_fft, "hop_length": fe.hop_length, "n_mels": fe.n_mels}
    mel = MelSpectrogram(fe.sample_rate, **sizes, pad_mode="constant", norm="slaney", mel_scale="slaney")
    level = AmplitudeToDB(top_db=fe.top_db)
    return torch.no_grad()(lambda waveform: level(mel(waveform)).transpose(1, 2).contiguous())


@torch.inference_mode()
def detect_plainly(model: Model, files: Sequence[Path], threshold: float, out: Path) -> None:
    """Detect events file by file: librosa's log-mel and the network of a model as it was trained."""
    fe = model.front_end
    rules = PostProcessing(np.full(len(model.labels), threshold))
    hop = model.network.score_geometry.hop * fe.hop_length / fe.sample_rate
    tables = []
    for path in files:
        audio, _ = librosa.load(path, sr=fe.sample_rate)
        level = (librosa_logmel(audio, fe) + fe.shift) * fe.gain
        probs = model.network(torch.from_numpy(level.T.astype(np.float32))[None]).segment_logits[0].sigmoid().numpy()
        scores = Scores(*timeline(probs, model.score_times(len(audio))[: len(probs)]))
        events = find_events([scores], model.labels, rules, hop)
        tables.append(events.assign(file=path.name))
    pd.concat(tables).to_csv(out, index=False)


def yamnet(
    weights: Path, threads: int
) -> Callable[[NDArray[np.float32]], Iterator[tuple[float, NDArray[np.float32]]]]:
    """YAMNet as its TFLite file is used: start (s) and scores (521,) of each patch of a clip (N,) at 16 kHz."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(weights), num_threads=threads)
    interpreter.allocate_tensors()
    given, scores = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    size = prod(map(int, given["shape"]))

    def patches(clip: NDArray[np.float32]) -> Iterator[tuple[float, NDArray[np.float32]]]:
        for start in range(0, max(len(clip) - size, 0) + 1, _YAMNET_HOP):
            patch = clip[start : start + size]
            patch = np.pad(patch, (0, size - len(patch))).astype(np.float32)
            interpreter.set_tensor(given["index"], patch.reshape(given["shape"]))
            interpreter.invoke()
            yield start / _YAMNET_RATE, interpreter.get_tensor(scores["index"]).reshape(-1)

    return patches


def detect_by_yamnet(weights: Path, files: Sequence[Path], threshold: float, out: Path, threads: int) -> None:
    """Detect events file by file with YAMNet, patch by patch."""
    patches, rows = yamnet(weights, threads), []
    for path in files:
        for start, scores in patches(librosa.load(path, sr=_YAMNET_RATE)[0]):
            found = np.flatnonzero(scores >= threshold)
            rows += [(path.name, start, start + 0.975, int(n), float(scores[n])) for n in found]
    pd.DataFrame(rows, columns=["file", "start", "end", "class", "score"]).to_csv(out, index=False)
