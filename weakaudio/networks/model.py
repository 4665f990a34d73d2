"""A model: front end, network and class names in one module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from weakaudio.audio.frontend import FrontEnd, LogMel
from weakaudio.audio.geometry import SegmentGeometry
from weakaudio.errors import LabelError, WeakAudioError
from weakaudio.networks.contract import Network, Output


class Model(nn.Module):
    """From waveforms (B, N) to segment and clip scores.

    Parameters
    ----------
    network
        Any network of the contract.
    front_end
        Log-mel that the network is trained on; a preset's name or a `FrontEnd`.
    labels
        Class names in the order of the network's outputs.
    metadata
        Free facts that are saved with the model: training data, metrics, licence.

    Raises
    ------
    LabelError
        The number of labels is not that of the network's classes.
    WeakAudioError
        The network takes another number of mels.
    """

    def __init__(
        self,
        network: Network,
        front_end: FrontEnd | str,
        labels: Sequence[str],
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if len(labels) != network.classifier.out_features:
            raise LabelError(f"{len(labels)} labels for a network of {network.classifier.out_features} classes")
        self.logmel = LogMel(front_end)
        n_mels = network.config.get("n_mels", self.front_end.n_mels)
        if n_mels != self.front_end.n_mels:
            raise WeakAudioError(
                f"network of {n_mels} mels with a front end of {self.front_end.n_mels} ({self.front_end.name!r})"
            )
        self.network = network
        self.labels = list(labels)
        self.metadata = dict(metadata or {})

    @property
    def front_end(self) -> FrontEnd:
        return self.logmel.front_end

    @property
    def sample_rate(self) -> int:
        """Hz"""
        return self.front_end.sample_rate

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> Output:
        """Scores of waveforms (B, N) at `sample_rate`; clip b has `lengths[b]` samples (None: all N)."""
        output: Output = self.network(*self.logmel(waveform, lengths))
        return output

    def segment_times(self, n_samples: int) -> NDArray[np.float64]:
        """Start and end (S, 2) in seconds of the segments of a clip of `n_samples` samples at `sample_rate`."""
        return self._times(self.network.geometry, n_samples)

    def score_times(self, n_samples: int) -> NDArray[np.float64]:
        """Start and end (R, 2) in seconds of the steps of `Output.segment_logits`, likewise."""
        return self._times(self.network.score_geometry, n_samples)

    def _times(self, geometry: SegmentGeometry, n_samples: int) -> NDArray[np.float64]:
        fe = self.front_end
        return geometry.times(fe.n_frames(n_samples), fe.hop_length / fe.sample_rate, n_samples / fe.sample_rate)
