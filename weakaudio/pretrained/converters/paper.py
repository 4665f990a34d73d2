"""Weights of the authors of arXiv 1711.01369: N_S, `mx-h64-1024_0d3-1.17.pkl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from weakaudio.networks import WeakCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained.converters.published import PublishedWeights, conv_norms, fill

_BLOCKS = ((1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16,))  # layer numbers of the convolutions; poolings between
_F1, _F2 = "layer18", "layer19"


def _build(tensors: Mapping[str, Tensor], labels: Sequence[str]) -> Model:
    network = WeakCNN(len(labels), pooling="mean", coverage="paper")
    norms = {f"blocks.{b}.{n}": f"layer{k}" for b, block in enumerate(_BLOCKS) for n, k in enumerate(block)}
    norms["f1"] = _F1
    modules = {"classifier": f"{_F2}.0", **conv_norms(norms)}
    # The published F2 is a 1x1 convolution, (C, D, 1, 1).
    fill(network, {**tensors, PAPER.classifier: tensors[PAPER.classifier].flatten(1)}, modules)
    return Model(network, "paper-44k", labels)


PAPER = PublishedWeights(
    _build,
    classifier=f"{_F2}.0.weight",
    source="arXiv 1711.01369, github.com/anuragkr90/weak_feature_extractor",
    licence="none stated",
    audioset_order=False,
)
