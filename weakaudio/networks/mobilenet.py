"""MobileNetV3 for audio tagging, as in EfficientAT: Schmid, Koutini and Widmer, "Efficient large-scale audio tagging
via transformer-to-CNN knowledge distillation" (arXiv 2211.04772); blocks after Howard et al. (arXiv 1905.02244)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakaudio.audio.geometry import SegmentGeometry, halve
from weakaudio.errors import WeakAudioError
from weakaudio.networks.contract import StagedNetwork
from weakaudio.networks.layers import ConvNorm, clear

# Blocks of MobileNetV3-Large at width 1: kernel, expanded channels, channels, squeeze-and-excitation, hardswish,
# stride.
_BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
_STEM, _HIDDEN = 16, 1280  # channels at width 1
_EXPANSION = 6  # of the last block's channels: the embedding
_STAGE_ENDS = (2, 5, 11, 14)
_CONTEXTS = (3, 9)  # segments whose mean embedding is scored
_SHRINK = 32


class MobileNet(StagedNetwork):
    """MobileNetV3-Large over a log-mel, with one embedding per 32 frames and a head of two layers.

    A clip is scored by its mean embedding, as in the release. The head was never trained on single segments, and
    scores dozens of classes high in a silent one; so a segment's score is the minimum of the head's scores of the
    mean embeddings of 3 and of 9 segments around it: the short mean localises a sound, the long one suppresses false
    alarms. Squeeze-and-excitation scales channels by their means over the clip, so a segment depends on its whole
    clip.

    Parameters
    ----------
    n_classes
        C
    n_mels
        F
    width
        Multiplies all channel counts: EfficientAT's mn04 is `MobileNet(527, width=0.4)`.
    """

    clip_seconds = 10.0  # AudioSet's: in windows of 40 s, three whistles in a quiet minute were 370 events

    def __init__(self, n_classes: int, n_mels: int = 128, width: float = 1.0) -> None:
        super().__init__()
        if min(n_classes, n_mels) < 1 or width <= 0:
            raise WeakAudioError(
                f"MobileNet: n_classes, n_mels and width must be above 0, got {n_classes}, {n_mels} and {width}"
            )
        self.config = {"n_classes": n_classes, "n_mels": n_mels, "width": width}
        self.geometry = SegmentGeometry(span=_SHRINK, hop=_SHRINK, lead=_SHRINK // 2)
        channels = _divisible(_STEM * width)
        self.stem = _conv(1, channels, kernel=3, stride=2)
        blocks = []
        for kernel, expanded, outputs, squeeze, hardswish, stride in _BLOCKS:
            expanded, outputs = _divisible(expanded * width), _divisible(outputs * width)
            blocks.append(_InvertedResidual(channels, expanded, outputs, kernel, stride, squeeze, hardswish))
            channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.n_features = _EXPANSION * channels
        self.last = _conv(channels, self.n_features, kernel=1)
        self.hidden = nn.Linear(self.n_features, _divisible(_HIDDEN * width))
        self.reset_classifier(n_classes)

    def stage_maps(self, x: Tensor, lengths: Tensor | None) -> list[Tensor]:
        """Maps of the last block before each halving, at strides 4, 8, 16 and 32."""
        x = F.hardswish(self.stem(x))
        lengths = None if lengths is None else halve(lengths, "all")
        maps = []
        for n, block in enumerate(self.blocks):
            x, lengths = block(x, lengths)
            if n in _STAGE_ENDS:
                maps.append(x)
        return maps

    def forward_last(self, x: Tensor, mask: Tensor) -> Tensor:
        return F.hardswish(self.last(x)).mean(3).transpose(1, 2)

    def forward_head(self, embeddings: Tensor) -> Tensor:
        logits: Tensor = self.classifier(F.hardswish(self.hidden(embeddings)))
        return logits

    def layers(self) -> list[nn.Module]:
        return [self.stem, *self.blocks, self.last]

    def score_segments(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        near, far = (self.forward_head(_mean_around(embeddings, mask, width)) for width in _CONTEXTS)
        return torch.minimum(near, far)

    @property
    def classifier_inputs(self) -> int:
        return self.hidden.out_features


class _InvertedResidual(nn.Module):
    """Expand, depthwise convolution, squeeze-and-excitation, project; plus the input where shapes allow."""

    def __init__(
        self, inputs: int, expanded: int, outputs: int, kernel: int, stride: int, squeeze: bool, hardswish: bool
    ) -> None:
        super().__init__()
        self.activation = F.hardswish if hardswish else F.relu
        self.expand = _conv(inputs, expanded, kernel=1) if expanded != inputs else None
        self.depthwise = _conv(expanded, expanded, kernel, stride, groups=expanded)
        self.squeeze = _SqueezeExcitation(expanded) if squeeze else None
        self.project = _conv(expanded, outputs, kernel=1)
        self.stride, self.residual = stride, stride == 1 and inputs == outputs

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Map and clip lengths (B,) after the block, from (B, channels, T, F) and lengths before it (None: all T)."""
        y = x if self.expand is None else self.activation(self.expand(x))
        y = self.activation(self.depthwise(clear(y, lengths)))
        after = halve(lengths, "all") if lengths is not None and self.stride == 2 else lengths
        if self.squeeze is not None:
            y = self.squeeze(y, after)
        y = self.project(y)
        return (x + y if self.residual else y), after


class _SqueezeExcitation(nn.Module):
    """Scale channels by gates computed from their means over the clip (arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _divisible(channels // 4)
        self.down = nn.Linear(channels, squeezed)
        self.up = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        mean = x.mean((2, 3)) if lengths is None else clear(x, lengths).sum((2, 3)) / (lengths * x.shape[3])[:, None]
        gate = self.up(F.relu(self.down(mean))).sigmoid()
        return x * gate[:, :, None, None]


def _mean_around(embeddings: Tensor, mask: Tensor, width: int) -> Tensor:
    """Means (B, S, D) over `width` segments around each; at the ends of a clip, over its first or last `width`."""
    counts = mask.sum(1, keepdim=True)  # (B, 1)
    inside = torch.where(mask[:, :, None], embeddings, 0.0)
    sums = width * F.avg_pool1d(F.pad(inside, (0, 0, 0, width - 1)).transpose(1, 2), width, 1)  # from each on
    places = torch.arange(mask.shape[1], device=mask.device) - width // 2
    starts = torch.minimum(places.clamp(min=0), (counts - width).clamp(min=0))  # (B, S)
    means = sums.gather(2, starts[:, None].expand_as(sums)) / counts.clamp(max=width)[:, :, None]
    return means.transpose(1, 2)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> ConvNorm:
    return ConvNorm(inputs, outputs, kernel, kernel // 2, stride, groups, bias=False, eps=1e-3, momentum=0.01)


def _divisible(channels: float) -> int:
    """The nearest multiple of 8 that is not more than 10 % smaller."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
