"""A classifier on the class probabilities of another network (preset III of `weakaudio.transfer.fine_tune`)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from weakaudio.errors import WeakAudioError
from weakaudio.networks.contract import Network
from weakaudio.networks.pooling import masked_mean


class StackedNetwork(Network):
    """A linear layer on the class probabilities (F2) of a base network.

    A clip is scored by the mean of these probabilities over its segments. Embeddings are those of the base network.

    Parameters
    ----------
    n_classes
        C
    base, base_config
        Name and arguments of the base network, including its number of classes.
    """

    def __init__(self, n_classes: int, base: str, base_config: dict[str, Any]) -> None:
        super().__init__()
        if n_classes < 1:
            raise WeakAudioError(f"StackedNetwork: n_classes must be at least 1, got {n_classes}")
        from weakaudio.networks import build_network  # imports this class

        self.base = build_network(base, **base_config)
        self.config = {"n_classes": n_classes, "base": base, "base_config": self.base.config}
        self.geometry, self.n_features = self.base.geometry, self.base.n_features
        self.clip_seconds = self.base.clip_seconds
        self.reset_classifier(n_classes)

    def forward_trunk(self, logmel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.base.forward_trunk(logmel, lengths)

    def forward_last(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.base.forward_last(x, mask)

    def forward_head(self, embeddings: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.base.forward_head(embeddings).sigmoid())
        return logits

    def score_segments(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.base.score_segments(embeddings, mask).sigmoid())
        return logits

    def score_clips(self, embeddings: Tensor, segment_logits: Tensor, mask: Tensor) -> Tensor:
        scores = self.base.score_segments(embeddings, mask).sigmoid()
        probs: Tensor = self.classifier(masked_mean(scores, mask)).sigmoid()
        return probs

    @property
    def context(self) -> int | None:
        return self.base.context

    def layers(self) -> list[nn.Module]:
        return self.base.layers()

    @property
    def classifier_inputs(self) -> int:
        return int(self.base.config["n_classes"])
