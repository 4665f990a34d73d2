"""The contract of every network: features and head are methods, so embeddings and transfer need no layer names."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from weakaudio.audio.geometry import SegmentGeometry, length_mask
from weakaudio.errors import WeakAudioError
from weakaudio.networks.layers import clear, clip_lengths, fold_norms, ragged
from weakaudio.networks.pooling import build_pooling, masked_mean


class Output(NamedTuple):
    """Scores and embeddings of a batch."""

    segment_logits: Tensor
    """(B, R, C) at the steps of `Network.score_geometry`; R = S unless scores are finer than embeddings"""
    clip_probs: Tensor
    """(B, C) float32 in [0, 1]"""
    embeddings: Tensor
    """(B, S, D)"""
    mask: Tensor
    """(B, S) bool: True where a segment belongs to its clip"""
    score_mask: Tensor
    """(B, R) bool: True where a row of `segment_logits` belongs to its clip"""


class Features(NamedTuple):
    """Intermediate maps and embeddings of a batch."""

    maps: list[Tensor]
    """(B, channels, T / stride, F / stride) of each stage, undefined past the end of a clip; none without stages"""
    embeddings: Tensor
    """(B, S, D)"""
    mask: Tensor
    """(B, S) bool"""
    lengths: Tensor
    """(B,) frames of each clip"""


class Network(nn.Module):
    """Base of all networks: a log-mel (B, T, F) becomes segment and clip scores.

    A subclass sets `n_features` (D) and `geometry`, fills `config` with the arguments that rebuild it, implements
    `forward_trunk`, `forward_last` and `layers`, and calls `reset_classifier` at the end of its `__init__`. A clip's
    output must depend neither on the other clips of its batch nor on its padding. To make it known by name, list it
    in `weakaudio.networks.NETWORKS`; the tests of the contract then cover it.
    """

    n_features: int
    geometry: SegmentGeometry
    """of embeddings"""
    config: dict[str, Any]
    classifier: nn.Linear
    clip_seconds: float | None = None
    """length of the clips that it was made for, where a segment depends on the whole clip; None: any"""

    @property
    def score_geometry(self) -> SegmentGeometry:
        """Geometry of scores: that of embeddings, or finer by a whole number of steps."""
        return self.geometry

    @property
    def context(self) -> int | None:
        """Receptive field beyond a segment's own frames, on each side; None: a segment depends on its whole clip.

        With a number, a recording can be processed in blocks with the same result.
        """
        return None

    def forward_features(self, logmel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute segment embeddings.

        Parameters
        ----------
        logmel
            (B, T, F); frames past a clip's length are ignored.
        lengths
            (B,) frames of each clip; None: all T.

        Returns
        -------
        embeddings, mask
            (B, S, D), and (B, S) bool: True where a segment belongs to its clip.
        """
        x, mask = self.forward_trunk(logmel, lengths)
        return self.forward_last(x, mask), mask

    def forward_trunk(self, logmel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Apply all `layers` but the last; transfer caches the result when it trains only the last and the head.

        Returns
        -------
        x, mask
            (B, channels, rows, F') and (B, S) bool. A clip with fewer segments than S uses as many rows fewer; the
            remaining rows have no influence.
        """
        raise NotImplementedError

    def forward_last(self, x: Tensor, mask: Tensor) -> Tensor:
        """Segment embeddings (B, S, D) from the output of `forward_trunk`; may modify x in place."""
        raise NotImplementedError

    def forward_head(self, embeddings: Tensor) -> Tensor:
        """Segment logits (B, S, C) of segment embeddings (B, S, D)."""
        logits: Tensor = self.classifier(embeddings)
        return logits

    def score_segments(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Segment logits (B, S, C): `forward_head` of each segment, unless a network uses context."""
        return self.forward_head(embeddings)

    def score_steps(self, features: Features) -> tuple[Tensor, Tensor]:
        """Logits (B, R, C) at the steps of `score_geometry`, and their mask (B, R).

        Those of `score_segments`, unless a network has a finer head.
        """
        return self.score_segments(features.embeddings, features.mask), features.mask

    def score_clips(self, embeddings: Tensor, segment_logits: Tensor, mask: Tensor) -> Tensor:
        """Clip probabilities (B, C): pooled segment probabilities, unless a network overrides it.

        Called with float32, outside autocast.
        """
        probs: Tensor = self.pooling(segment_logits.sigmoid(), mask, embeddings)
        return probs

    def forward(self, logmel: Tensor, lengths: Tensor | None = None) -> Output:
        """Features and scores of a log-mel (B, T, F); clips are scored in float32, also under autocast."""
        return self.forward_scores(self.extract(logmel, lengths))

    def forward_scores(self, features: Features) -> Output:
        """Scores from the output of `extract`."""
        logits, score_mask = self.score_steps(features)
        embeddings, mask = features.embeddings, features.mask
        with torch.autocast(logits.device.type, enabled=False):
            clip_probs = self.score_clips(embeddings.float(), logits.float(), mask)
        return Output(logits, clip_probs, embeddings, mask, score_mask)

    def reset_classifier(self, n_classes: int) -> None:
        """Initialise a new classifier, and pooling if the network has one, for `n_classes` classes."""
        self.config["n_classes"] = n_classes
        self.classifier = nn.Linear(self.classifier_inputs, n_classes)
        if "pooling" in self.config:
            self.pooling = build_pooling(self.config["pooling"], n_classes, self.n_features)

    @property
    def classifier_inputs(self) -> int:
        """Input width of `classifier`: D, unless hidden layers precede it."""
        return self.n_features

    def layers(self) -> list[nn.Module]:
        """Layers from the log-mel to the embedding, without the head, for layer-wise learning rates and freezing."""
        raise NotImplementedError

    def extract(self, logmel: Tensor, lengths: Tensor | None = None) -> Features:
        """All that scores are computed from: embeddings, and the maps of the stages of a `StagedNetwork`."""
        lengths = clip_lengths(logmel, lengths)
        return Features([], *self.forward_features(logmel, lengths), lengths)

    def forward_maps(self, logmel: Tensor, lengths: Tensor | None = None) -> Features:
        """Compute embeddings and the maps of the stages, for distillation between networks.

        Raises
        ------
        WeakAudioError
            The network is not a `StagedNetwork`.
        """
        raise WeakAudioError(f"{type(self).__name__} has no stages: it can be neither teacher nor student")

    def fuse(self) -> Network:
        """Fold batch normalisation into the convolutions, in place, for faster inference; returns itself.

        The output stays the same; the network can be neither trained nor saved afterwards.
        """
        fold_norms(self)
        return self


class StagedNetwork(Network):
    """Base of networks with stages, which can teach or be taught by distillation.

    `clip_probs` is the head on the mean of the clip's embeddings, not pooled from segment probabilities. A subclass
    implements `stage_maps` in place of `forward_trunk`.
    """

    def stage_maps(self, x: Tensor, lengths: Tensor | None) -> list[Tensor]:
        """Maps of the stages, the last of which is the input of `forward_last`, from x (B, 1, T, F).

        `lengths` (B,) are the frames of each clip, past which x is 0; None: all T.
        """
        raise NotImplementedError

    def forward_stages(self, logmel: Tensor, lengths: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Maps of the stages, and the mask (B, S) of segments."""
        lengths = clip_lengths(logmel, lengths)
        inner = ragged(lengths, logmel.shape[1])
        x = logmel[:, None].contiguous(memory_format=torch.channels_last)
        maps = self.stage_maps(clear(x, inner), inner)
        return maps, length_mask(self.geometry.segment_counts(lengths), maps[-1].shape[2])

    def forward_trunk(self, logmel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        maps, mask = self.forward_stages(logmel, lengths)
        return maps[-1], mask

    def extract(self, logmel: Tensor, lengths: Tensor | None = None) -> Features:
        return self.forward_maps(logmel, lengths)

    def forward_maps(self, logmel: Tensor, lengths: Tensor | None = None) -> Features:
        lengths = clip_lengths(logmel, lengths)
        maps, mask = self.forward_stages(logmel, lengths)
        return Features(maps, self.forward_last(maps[-1], mask), mask, lengths)

    def score_clips(self, embeddings: Tensor, segment_logits: Tensor, mask: Tensor) -> Tensor:
        return self.forward_head(masked_mean(embeddings, mask)).sigmoid()
