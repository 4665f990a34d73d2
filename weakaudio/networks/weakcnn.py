"""N_S: the CNN for weak labels of Kumar, Khadkevich and Fuegen (arXiv 1711.01369)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakaudio.audio.geometry import COVERAGES, Coverage, SegmentGeometry, halve, length_mask
from weakaudio.errors import WeakAudioError
from weakaudio.networks.contract import Network
from weakaudio.networks.layers import ConvNorm, clear, clip_lengths, ragged

_CHANNELS = (16, 32, 64, 128, 256, 512)  # blocks B1 .. B6 at width 1
_EMBEDDING = 1024  # F1 at width 1
_DEEPEST = 16  # convolutions in a block; a damaged file could request billions


class WeakCNN(Network):
    """Six blocks of 3x3 convolutions and 2x2 max pooling (B1..B6), a 2x2 convolution (F1), a linear classifier (F2).

    One embedding per 64 frames, with a span of 128. After each convolution, rows past the end of a clip are reset to
    0, the value of zero padding at the border of a single clip; so neither the other clips of a batch nor padding
    change a clip's output. Only batch normalisation in training depends on the whole batch.

    Parameters
    ----------
    n_classes
        C. `WeakCNN(527)` has the paper's 5,002,047 parameters.
    n_mels
        F, a multiple of 64; F1 spans all F / 64 remaining bands.
    width
        Multiplies all channel counts.
    depth
        Convolutions in each of B1..B5 (2 in the paper).
    pooling
        A key of `weakaudio.networks.pooling.POOLINGS`.
    coverage
        "all": every frame is seen. "paper": each max pooling rounds down as in the release, which drops up to 63
        trailing frames; clips shorter than 128 frames are padded with 0.

    Raises
    ------
    WeakAudioError
        An unknown pooling or coverage, or an invalid size.
    """

    def __init__(
        self,
        n_classes: int,
        n_mels: int = 128,
        width: float = 1.0,
        depth: int = 2,
        pooling: str = "mean",
        coverage: Coverage = "all",
    ) -> None:
        super().__init__()
        shrink = 2 ** len(_CHANNELS)
        if n_mels < shrink or n_mels % shrink:
            raise WeakAudioError(f"WeakCNN: n_mels must be a multiple of {shrink}, got {n_mels}")
        if n_classes < 1:
            raise WeakAudioError(f"WeakCNN: n_classes must be at least 1, got {n_classes}")
        if coverage not in COVERAGES:
            raise WeakAudioError(f"WeakCNN: coverage must be one of {', '.join(COVERAGES)}, got {coverage!r}")
        if depth > _DEEPEST:
            raise WeakAudioError(f"WeakCNN: depth must be at most {_DEEPEST}, got {depth}")
        if depth < 1 or width * _CHANNELS[0] < 1:
            raise WeakAudioError(f"WeakCNN: no channels or layers left at width {width} and depth {depth}")
        self.config = {
            "n_classes": n_classes,
            "n_mels": n_mels,
            "width": width,
            "depth": depth,
            "pooling": pooling,
            "coverage": coverage,
        }
        self.geometry = SegmentGeometry(span=2 * shrink, hop=shrink, coverage=coverage)
        self.n_features = round(_EMBEDDING * width)

        channels = [round(c * width) for c in _CHANNELS]
        depths = [depth] * (len(channels) - 1) + [1]
        inputs = [1, *channels[:-1]]
        self.blocks = nn.ModuleList(
            nn.ModuleList(ConvNorm(i if n == 0 else o, o, kernel=3, padding=1) for n in range(layers))
            for i, o, layers in zip(inputs, channels, depths, strict=True)
        )
        self.f1 = ConvNorm(channels[-1], self.n_features, kernel=(2, n_mels // shrink), padding=0)
        self.reset_classifier(n_classes)

    def forward_trunk(self, logmel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lengths, coverage = clip_lengths(logmel, lengths), self.geometry.coverage
        x = clear(logmel[:, None], ragged(lengths, logmel.shape[1]))  # (B, 1, T, F)
        if coverage == "paper":  # pads short clips to one segment
            x = F.pad(x, (0, 0, 0, max(self.geometry.span - x.shape[2], 0)))
            lengths = lengths.clamp(min=self.geometry.span)
        mask = length_mask(self.geometry.segment_counts(lengths), self.geometry.n_segments(x.shape[2]))
        inner = ragged(lengths, x.shape[2])
        x = x.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            assert isinstance(block, nn.ModuleList)
            for n, layer in enumerate(block):
                x = layer(x)
                if n + 1 < len(block):
                    x = clear(x.relu_(), inner)
            # ReLU after the maximum equals ReLU before it, on a quarter of the values; zeros of padding among the
            # four do no harm, as a negative maximum becomes 0, too.
            x = F.max_pool2d(clear(x, inner), 2, ceil_mode=coverage == "all").relu_()
            if inner is not None:
                inner = halve(inner, coverage)
                if coverage == "paper":  # also drops a row that was half inside the clip
                    x = clear(x, inner)
        if x.shape[2] < 2:
            x = F.pad(x, (0, 0, 0, 2 - x.shape[2]))
        return x, mask

    def forward_last(self, x: Tensor, mask: Tensor) -> Tensor:
        embeddings: Tensor = self.f1(x).relu_().squeeze(3).transpose(1, 2)
        return embeddings

    @property
    def context(self) -> int | None:
        depth = int(self.config["depth"])
        last = len(self.blocks) - 1  # has one convolution
        return 2**last + sum(2**n * depth for n in range(last))  # a 3x3 convolution reaches one row

    def layers(self) -> list[nn.Module]:
        return [*self.blocks, self.f1]


class WindowedCNN(WeakCNN):
    """A `WeakCNN` applied to one segment-sized window at a time, for strong label assumption training (SLAT).

    A clip is cut into windows, which are WeakCNN's segments (128 frames, hop 64), and each is processed like a clip
    of its own. Neighbouring windows share half their frames, so this costs up to twice WeakCNN's convolutions. The
    windows' scores are merged by `pooling` (arXiv 1711.01369 does not say how; the mean is the default). Train it
    with the loss "slat". Takes WeakCNN's arguments.
    """

    @property
    def context(self) -> int | None:
        return 0

    def forward_trunk(self, logmel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The trunk of each window, as one row: the window's rows are stacked in the channels."""
        lengths = clip_lengths(logmel, lengths)
        span, hop = self.geometry.span, self.geometry.hop
        n_windows = self.geometry.n_segments(logmel.shape[1])
        frames = (n_windows - 1) * hop + span
        logmel = F.pad(logmel, (0, 0, 0, max(frames - logmel.shape[1], 0)))[:, :frames]
        starts = torch.arange(n_windows, device=logmel.device) * hop
        mask = starts < self.geometry.segment_counts(lengths)[:, None] * hop  # (B, S)

        windows = logmel.unfold(1, span, hop).transpose(2, 3)[mask]  # (windows of all clips, span, F)
        window_lengths = (lengths[:, None] - starts)[mask].clamp(1, span)
        maps, _ = super().forward_trunk(windows, window_lengths)  # (windows, channels, 2, F')
        x = maps.new_zeros(*mask.shape, maps.shape[1] * maps.shape[2], maps.shape[3])
        x[mask] = maps.flatten(1, 2)
        return x.transpose(1, 2), mask

    def forward_last(self, x: Tensor, mask: Tensor) -> Tensor:
        windows = x.transpose(1, 2)[mask].unflatten(1, (-1, 2))
        embeddings = x.new_zeros(*mask.shape, self.n_features)
        embeddings[mask] = super().forward_last(windows, mask)[:, 0]
        return embeddings
