"""FlashCNN: stages of interchangeable operators, the space of the architecture search (after arXiv 2511.18890)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

from torch import Tensor, nn

from weakaudio.audio.geometry import SegmentGeometry, halve
from weakaudio.errors import WeakAudioError
from weakaudio.networks.contract import Features, StagedNetwork
from weakaudio.networks.fine_head import FineHead
from weakaudio.networks.layers import ConvNorm, clear
from weakaudio.networks.operators import OPERATORS

_STEM = 4  # stride of the first convolution
_STRIDES = (4, 8, 16, 32)  # of the stages
_SHRINK = _STRIDES[-1]


class FlashCNN(StagedNetwork):
    """A 7x7 stem at stride 4, four stages of residual blocks at strides 4, 8, 16 and 32, and a convolution over the
    remaining mels; one embedding per 32 frames.

    The receptive field is finite, so a recording can be processed in blocks, unless a stage has attention or
    recurrence: then a segment depends on its whole clip.

    Parameters
    ----------
    n_classes
        C
    n_mels
        F, a multiple of 32.
    stages
        Operator, number of blocks and channels of each of the four stages. The operator is a key of `OPERATORS`, or
        several joined by "+", between which the blocks alternate: of 3 blocks of "dense+attention", the second is
        attention.
    n_features
        D, width of the embedding.
    score_stride
        Frames from one score to the next, the stride of a stage (4, 8 or 16): a `FineHead` on the stages from that
        one on. None: scores are in the steps of the embeddings.
    score_width
        Channels of the `FineHead`.

    Raises
    ------
    WeakAudioError
        An unknown operator, another number of stages than four, or an invalid size or stride.
    """

    def __init__(
        self,
        n_classes: int,
        n_mels: int = 128,
        stages: Sequence[tuple[str, int, int]] = (
            ("dense", 1, 32),
            ("dense", 2, 64),
            ("dense", 3, 128),
            ("dense", 2, 256),
        ),
        n_features: int = 768,
        score_stride: int | None = None,
        score_width: int = 128,
    ) -> None:
        super().__init__()
        if n_mels < _SHRINK or n_mels % _SHRINK:
            raise WeakAudioError(f"FlashCNN: n_mels must be a multiple of {_SHRINK}, got {n_mels}")
        if len(stages) != len(_STRIDES):
            raise WeakAudioError(f"FlashCNN: {len(_STRIDES)} stages, got {len(stages)}")
        for operator, count, channels in stages:
            for name in str(operator).split("+"):
                if name not in OPERATORS:
                    raise WeakAudioError(f"FlashCNN: operator {name!r}: unknown; there are {', '.join(OPERATORS)}")
            if count < 0 or channels < 1:
                raise WeakAudioError(f"FlashCNN: a stage of {count} blocks and {channels} channels")
        if min(n_classes, n_features, score_width) < 1:
            raise WeakAudioError(
                f"FlashCNN: {n_classes} classes, {n_features} features, score_width {score_width}: at least 1 of each"
            )
        if score_stride not in (None, *_STRIDES[:-1]):
            raise WeakAudioError(f"FlashCNN: score_stride {score_stride!r}: expected {_STRIDES[:-1]} or None")
        self.config = {
            "n_classes": n_classes,
            "n_mels": n_mels,
            "stages": [list(stage) for stage in stages],
            "n_features": n_features,
        }
        if score_stride is not None:
            self.config |= {"score_stride": score_stride, "score_width": score_width}
        self.geometry = SegmentGeometry(span=_SHRINK, hop=_SHRINK, lead=_SHRINK // 2)
        self.n_features = n_features
        widths = [channels for _, _, channels in stages]
        self.entries = nn.ModuleList(
            ConvNorm(i, o, kernel=7 if i == 1 else 3, padding=3 if i == 1 else 1, stride=s, bias=False)
            for i, o, s in zip([1, *widths[:-1]], widths, [_STEM, 2, 2, 2], strict=True)
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(OPERATORS[name](channels, n_mels // stride) for name in _turns(operator, count))
            for stride, (operator, count, channels) in zip(_STRIDES, stages, strict=True)
        )
        self.last = ConvNorm(widths[-1], n_features, kernel=(1, n_mels // _SHRINK), padding=0, bias=False)
        super().reset_classifier(n_classes)
        self.fine: FineHead | None = None
        if score_stride is not None:
            self._first = _STRIDES.index(score_stride)
            finer = zip(widths[self._first : -1], _STRIDES[self._first : -1], strict=True)
            inputs = [(channels, n_mels // stride, stride) for channels, stride in finer]
            self.fine = FineHead(inputs, n_features, _SHRINK, n_classes, score_width)

    def reset_classifier(self, n_classes: int) -> None:
        """As `Network`; a finer head, which knows no other classes, is removed."""
        super().reset_classifier(n_classes)
        self.fine = None
        for name in ("score_stride", "score_width"):
            self.config.pop(name, None)

    @property
    def score_geometry(self) -> SegmentGeometry:
        return self.geometry if self.fine is None else self.fine.geometry

    def score_steps(self, features: Features) -> tuple[Tensor, Tensor]:
        wide = self.score_segments(features.embeddings, features.mask)
        if self.fine is None:
            return wide, features.mask
        maps = features.maps[self._first : -1]
        logits = self.fine(maps, features.embeddings, wide, features.mask, features.lengths)
        return logits, self.fine.mask(features.lengths, logits.shape[1])

    def stage_maps(self, x: Tensor, lengths: Tensor | None) -> list[Tensor]:
        maps = []
        for n, (entry, blocks) in enumerate(zip(self.entries, self.stages, strict=True)):
            for _ in range(2 if n == 0 else 1):  # halvings
                lengths = None if lengths is None else halve(lengths, "all")
            x = clear(entry(x).relu_(), lengths)
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                x = block(x, lengths)
            maps.append(x)
        return maps

    def forward_last(self, x: Tensor, mask: Tensor) -> Tensor:
        embeddings: Tensor = self.last(x).relu_().squeeze(3).transpose(1, 2)
        return embeddings

    @property
    def context(self) -> int | None:
        entries = 3 + sum(_STRIDES[:-1])  # 7x7 at stride 1, then 3x3 at the stride of each stage before the next
        blocks = 0
        for stride, (operator, count, _) in zip(_STRIDES, self.config["stages"], strict=True):
            for name in _turns(operator, count):
                reach = OPERATORS[name].reach
                if reach is None:
                    return None
                blocks += stride * reach
        finer = 0 if self.fine is None else self.fine.context
        return entries + blocks - self.geometry.lead + 1 + finer  # counted from the middle of a segment

    def layers(self) -> list[nn.Module]:
        pairs = zip(self.entries, self.stages, strict=True)
        return [*(nn.ModuleList(pair) for pair in pairs), self.last]


def _turns(operator: str, count: int) -> list[str]:
    """Operator of each block of a stage."""
    return list(islice(cycle(operator.split("+")), count))
