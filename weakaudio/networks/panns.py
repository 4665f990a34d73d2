"""Cnn14 of PANNs: Kong et al., "PANNs: Large-scale pretrained audio neural networks for audio pattern recognition"
(arXiv 1912.10211)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakaudio.audio.geometry import SegmentGeometry, halve, length_mask
from weakaudio.errors import WeakAudioError
from weakaudio.networks.contract import Network
from weakaudio.networks.layers import ConvNorm, clear, clip_lengths, ragged
from weakaudio.networks.pooling import masked_mean

EMBEDDING = 2048  # channels at width 1
_CHANNELS = (64, 128, 256, 512, 1024, EMBEDDING)
_SHRINK = 2 ** (len(_CHANNELS) - 1)


class Cnn14(Network):
    """Six blocks of two 3x3 convolutions with 2x2 average pooling between them, and a head of two layers; one
    embedding per 32 frames.

    `clip_probs` is the head on the sum of the maximum and the mean of the segments' features, as in the release, not
    pooled from segment probabilities. A segment is scored like a clip of one segment, whose maximum and mean are
    equal; so embeddings are twice the features.

    Each average pooling rounds down as in the release, which drops up to 31 trailing frames. A clip shorter than 32
    frames is padded with 0, which is silence in the front end `panns-32k`.

    Parameters
    ----------
    n_classes
        C
    n_mels
        F, at least 32
    width
        Multiplies all channel counts.
    """

    def __init__(self, n_classes: int, n_mels: int = 64, width: float = 1.0) -> None:
        super().__init__()
        channels = [round(c * width) for c in _CHANNELS]
        if n_classes < 1 or n_mels < _SHRINK or channels[0] < 1:
            raise WeakAudioError(
                f"Cnn14: needs n_classes above 0, n_mels of at least {_SHRINK} and a width that leaves channels, got "
                f"{n_classes}, {n_mels} and {width}"
            )
        self.config = {"n_classes": n_classes, "n_mels": n_mels, "width": width}
        self.geometry = SegmentGeometry(span=_SHRINK, hop=_SHRINK, coverage="paper")
        self.n_features = channels[-1]
        self.norm = nn.BatchNorm2d(n_mels)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                ConvNorm(i, o, kernel=3, padding=1, bias=False) for i, o in ((inputs, outputs), (outputs,) * 2)
            )
            for inputs, outputs in zip([1, *channels], channels, strict=False)
        )
        self.hidden = nn.Linear(self.n_features, self.n_features)
        self.reset_classifier(n_classes)

    def forward_trunk(self, logmel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lengths = clip_lengths(logmel, lengths)
        logmel = clear(logmel[:, None], ragged(lengths, logmel.shape[1]))  # (B, 1, T, F)
        logmel = F.pad(logmel, (0, 0, 0, max(_SHRINK - logmel.shape[2], 0)))
        lengths = lengths.clamp(min=_SHRINK)
        mask = length_mask(self.geometry.segment_counts(lengths), self.geometry.n_segments(logmel.shape[2]))
        inner = ragged(lengths, logmel.shape[2])
        x = clear(self.norm(logmel.transpose(1, 3)).transpose(1, 3), inner)
        x = x.contiguous(memory_format=torch.channels_last)
        for block in self.blocks[:-1]:
            x = F.avg_pool2d(_convolve(block, x, inner), 2)
            inner = None if inner is None else halve(inner, "paper")
            x = clear(x, inner)  # also a row that was half inside the clip
        return x, mask

    def forward_last(self, x: Tensor, mask: Tensor) -> Tensor:
        x = _convolve(self.blocks[-1], x, ragged(mask.sum(1), mask.shape[1]))
        return 2 * x.mean(3).transpose(1, 2)

    def forward_head(self, embeddings: Tensor) -> Tensor:
        logits: Tensor = self.classifier(F.relu(self.hidden(embeddings)))
        return logits

    def score_clips(self, embeddings: Tensor, segment_logits: Tensor, mask: Tensor) -> Tensor:
        loudest = torch.where(mask[:, :, None], embeddings, 0.0).amax(1)  # never below 0
        return self.forward_head((loudest + masked_mean(embeddings, mask)) / 2).sigmoid()

    @property
    def context(self) -> int | None:
        return sum(2 * 2**n for n in range(len(self.blocks)))  # two 3x3 convolutions in each

    def layers(self) -> list[nn.Module]:
        return [self.norm, *self.blocks]

    @property
    def classifier_inputs(self) -> int:
        return self.hidden.out_features


def _convolve(block: nn.Module, x: Tensor, lengths: Tensor | None) -> Tensor:
    """Apply a block's convolutions; x is 0 past the end of each clip, before and after."""
    assert isinstance(block, nn.ModuleList)
    for layer in block:
        x = clear(layer(x).relu_(), lengths)
    return x
