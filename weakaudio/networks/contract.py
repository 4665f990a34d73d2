"""The contract every network keeps, so that embeddings, transfer and training need no surgery."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from weakaudio.audio.geometry import SegmentGeometry
from weakaudio.errors import WeakAudioError
from weakaudio.networks.pooling import build_pooling


class Output(NamedTuple):
    """What a network says of a batch."""

    segment_logits: Tensor
    """(B, S, C)"""
    clip_probs: Tensor
    """(B, C) float32 in [0, 1]"""
    embeddings: Tensor
    """(B, S, D)"""
    mask: Tensor
    """(B, S) bool: True where a segment belongs to its clip"""


class Features(NamedTuple):
    """What a network makes of a batch on its way to the scores."""

    maps: list[Tensor]
    """(B, channels, T / stride, F / stride) of each of its stages; what lies past the end of a clip is undefined"""
    embeddings: Tensor
    """(B, S, D)"""
    mask: Tensor
    """(B, S) bool"""


class Network(nn.Module):
    """A log-mel becomes segment and clip scores; plain torch.

    A subclass sets `n_features` (D) and `geometry`, fills `config` with the arguments that rebuild it, writes
    `forward_trunk`, `forward_last` and `layers`, and calls `reset_classifier` at the end of its `__init__`. A clip's
    output must not depend on what else is in its batch, nor on how far it is padded.
    """

    n_features: int
    geometry: SegmentGeometry
    config: dict[str, Any]
    classifier: nn.Linear

    @property
    def context(self) -> int | None:
        """Frames before and after a segment's own that it depends on; None: on all of its clip.

        With a number, a recording can be processed in parts without a difference.
        """
        return None

    def forward_features(self, logmel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Segment embeddings.

        Parameters
        ----------
        logmel
            (B, T, F); what lies past a clip's length is ignored.
        lengths
            (B,) frames of each clip; None means all T.

        Returns
        -------
        embeddings, mask
            (B, S, D), and (B, S) bool: True where a segment belongs to its clip.
        """
        x, mask = self.forward_trunk(logmel, lengths)
        return self.forward_last(x, mask), mask

    def forward_trunk(self, logmel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All of `layers` but the last: what transfer keeps, when it trains no more than the last and the heads.

        Returns
        -------
        x, mask
            (B, channels, rows, F') and (B, S) bool. A clip with fewer segments needs as many rows fewer; the others
            may as well be 0.
        """
        raise NotImplementedError

    def forward_last(self, x: Tensor, mask: Tensor) -> Tensor:
        """Segment embeddings (B, S, D) of what `forward_trunk` gives; may change x."""
        raise NotImplementedError

    def forward_head(self, embeddings: Tensor) -> Tensor:
        """Segment logits (B, S, C) of segment embeddings (B, S, D)."""
        logits: Tensor = self.classifier(embeddings)
        return logits

    def score_segments(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Segment logits (B, S, C) as `forward` gives them: of each segment alone, unless a network knows better."""
        return self.forward_head(embeddings)

    def score_clips(self, embeddings: Tensor, segment_logits: Tensor, mask: Tensor) -> Tensor:
        """Clip probabilities (B, C): the segments' probabilities pooled, unless a network has another way.

        It gets float32, outside of autocast.
        """
        probs: Tensor = self.pooling(segment_logits.sigmoid(), mask, embeddings)
        return probs

    def forward(self, logmel: Tensor, lengths: Tensor | None = None) -> Output:
        """Everything at once; clips are scored in float32 also inside autocast."""
        return self.forward_scores(*self.forward_features(logmel, lengths))

    def forward_scores(self, embeddings: Tensor, mask: Tensor) -> Output:
        """All that follows `forward_features`."""
        logits = self.score_segments(embeddings, mask)
        with torch.autocast(logits.device.type, enabled=False):
            clip_probs = self.score_clips(embeddings.float(), logits.float(), mask)
        return Output(logits, clip_probs, embeddings, mask)

    def reset_classifier(self, n_classes: int) -> None:
        """Replace classifier and pooling by fresh ones for `n_classes` classes."""
        self.config["n_classes"] = n_classes
        self.classifier = nn.Linear(self.n_features, n_classes)
        self.pooling = build_pooling(self.config["pooling"], n_classes, self.n_features)

    def layers(self) -> list[nn.Module]:
        """Its layers from the log-mel to the embedding, which the last of them makes; heads are not among them.

        So that transfer can train them at different rates, or some of them only.
        """
        raise NotImplementedError

    def forward_maps(self, logmel: Tensor, lengths: Tensor | None = None) -> Features:
        """As `forward_features`, and what the stages give on the way, for networks that are taught by another one.

        Raises
        ------
        WeakAudioError
            The network does not show its stages.
        """
        raise WeakAudioError(
            f"{type(self).__name__} does not show its stages, so it cannot be taught or teach by them"
        )

    def fuse(self) -> Network:
        """Make this network faster at inference, in place, without changing what it computes; returns itself.

        The network cannot be trained or saved afterwards. Networks that have nothing to fuse do nothing.
        """
        return self.eval()


class StagedNetwork(Network):
    """A network that shows its stages, and scores a clip by its mean embedding.

    `clip_probs` is the head on the mean of the clip's embeddings, and is not pooled from the segments' probabilities.
    A subclass writes `forward_stages`.
    """

    def forward_stages(self, logmel: Tensor, lengths: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """The map of each stage, of which the last is what `forward_last` takes, and the mask of the segments."""
        raise NotImplementedError

    def forward_trunk(self, logmel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        maps, mask = self.forward_stages(logmel, lengths)
        return maps[-1], mask

    def forward_maps(self, logmel: Tensor, lengths: Tensor | None = None) -> Features:
        maps, mask = self.forward_stages(logmel, lengths)
        return Features(maps, self.forward_last(maps[-1], mask), mask)

    def score_clips(self, embeddings: Tensor, segment_logits: Tensor, mask: Tensor) -> Tensor:
        return self.forward_head(mean_embedding(embeddings, mask)).sigmoid()


def mean_embedding(embeddings: Tensor, mask: Tensor) -> Tensor:
    """(B, D), each clip's mean over its own segments."""
    inside = mask[:, :, None]
    return torch.where(inside, embeddings, 0.0).sum(1) / inside.sum(1)
