"""N_S: the CNN for weak labels of Kumar, Khadkevich and Fuegen (arXiv 1711.01369)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakaudio.audio.geometry import COVERAGES, Coverage, SegmentGeometry, halves, length_mask
from weakaudio.errors import WeakAudioError
from weakaudio.networks.contract import Network
from weakaudio.networks.layers import ConvNorm, clear, fold_norms, ragged

_CHANNELS = (16, 32, 64, 128, 256, 512)  # blocks B1 .. B6 at width 1
_EMBEDDING = 1024  # F1 at width 1
_DEEPEST = 16  # convolutions in a block: so that a damaged file cannot ask for billions


class WeakCNN(Network):
    """Six blocks of 3x3 convolutions and 2x2 poolings (B1..B6), a 2x2 convolution (F1), a linear classifier (F2).

    One embedding stands for 128 frames, hop 64. After each convolution what lies past the end of a clip is
    set back to 0, which is also what the convolutions see at the border of a clip that is alone; so batch
    mates and padding never change a clip's output. Only batch normalisation in training, as everywhere,
    sees the whole batch.

    Parameters
    ----------
    n_classes
        C. `WeakCNN(527)` has the paper's 5,002,047 parameters.
    n_mels
        F, a multiple of 64; F1 spans all of the F / 64 rows that are left of them.
    width
        Multiplies all channel counts.
    depth
        Convolutions in each of B1..B5 (the paper: 2).
    pooling
        A name from `weakaudio.networks.pooling.POOLINGS`.
    coverage
        "all" sees every frame; "paper" floors at each pooling as the release does, and so drops up to 63
        trailing frames and needs at least 128 (shorter clips are padded with 0).
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
        self.coverage: Coverage = coverage
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
        if lengths is None:
            lengths = torch.full((len(logmel),), logmel.shape[1], device=logmel.device)
        x = clear(logmel[:, None], ragged(lengths, logmel.shape[1]))  # (B, 1, T, F)
        if self.coverage == "paper":  # short clips are zeros up to one segment, and then count as that long
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
            # ReLU after the maximum is the same as before it, on a quarter of the values; and what is cleared
            # to 0 before the maximum cannot survive the ReLU.
            x = _halve(clear(x, inner), self.coverage).relu_()
            if inner is not None:
                inner = halves(inner, self.coverage)
                if self.coverage == "paper":  # a row whose frames were half inside the clip is dropped, too
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
        last = len(self.blocks) - 1  # which has one convolution
        return 2**last + sum(2**n * depth for n in range(last))  # a 3x3 convolution sees one row around

    def layers(self) -> list[nn.Module]:
        return [*self.blocks, self.f1]

    def fuse(self) -> Network:
        """Fold batch normalisation into the convolutions and lay weights out channels-last."""
        fold_norms(self)
        return self


def _halve(x: Tensor, coverage: Coverage) -> Tensor:
    """2x2 maximum. Time rounds up or down with the coverage; an odd last frame is its own maximum."""
    return F.max_pool2d(x, 2, ceil_mode=coverage == "all")


class WindowedCNN(WeakCNN):
    """A `WeakCNN` that is shown one segment-sized window at a time, as SLAT trains it.

    A clip is cut into the windows that are WeakCNN's segments (128 frames, hop 64), and each goes through the
    network as if it were a clip. Neighbouring windows share half their frames, so this costs up to twice the
    convolutions of WeakCNN. The windows' scores are merged by `pooling` (arXiv 1711.01369 does not say how; the
    mean is the default). To be trained with the loss "slat". Arguments are WeakCNN's.
    """

    @property
    def context(self) -> int | None:
        return 0

    def forward_trunk(self, logmel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As the contract says; a row is a window, whose own rows are beside each other in the channels."""
        if lengths is None:
            lengths = torch.full((len(logmel),), logmel.shape[1], device=logmel.device)
        span, hop = self.geometry.span, self.geometry.hop
        n_windows = self.geometry.n_segments(logmel.shape[1])
        frames = (n_windows - 1) * hop + span
        logmel = F.pad(logmel, (0, 0, 0, max(frames - logmel.shape[1], 0)))[:, :frames]
        starts = torch.arange(n_windows, device=logmel.device) * hop
        mask = starts < self.geometry.segment_counts(lengths)[:, None] * hop  # (B, S)

        windows = logmel.unfold(1, span, hop).transpose(2, 3)[mask]  # (windows of all clips, span, F)
        window_lengths = (lengths[:, None] - starts)[mask].clamp(1, span)
        own, _ = super().forward_trunk(windows, window_lengths)  # (windows, channels, 2, F')
        x = own.new_zeros(*mask.shape, own.shape[1] * own.shape[2], own.shape[3])
        x[mask] = own.flatten(1, 2)
        return x.transpose(1, 2), mask

    def forward_last(self, x: Tensor, mask: Tensor) -> Tensor:
        windows = x.transpose(1, 2)[mask].unflatten(1, (-1, 2))
        embeddings = x.new_zeros(*mask.shape, self.n_features)
        embeddings[mask] = super().forward_last(windows, mask)[:, 0]
        return embeddings
