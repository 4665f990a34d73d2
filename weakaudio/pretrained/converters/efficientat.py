"""Weights of EfficientAT: MobileNetV3 taggers mn01 .. mn40."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from weakaudio.errors import CheckpointError
from weakaudio.networks import MobileNet
from weakaudio.networks.model import Model
from weakaudio.pretrained.converters.published import PublishedWeights, conv_norms, fill

WIDTHS = (0.1, 0.2, 0.4, 0.5, 1.0, 2.0, 3.0, 4.0)  # of mn01, mn02, mn04, ...
_HIDDEN = "classifier.2.weight"


def _build(tensors: Mapping[str, Tensor], labels: Sequence[str]) -> Model:
    """Build the network at the width of the tensors; the front end, which they do not tell, has 128 mels, hop 320."""
    network = MobileNet(len(labels), width=_width(tensors))
    # Published kernels are (mel, time), ours (time, mel).
    turned = {name: tensor.transpose(2, 3) if tensor.ndim == 4 else tensor for name, tensor in tensors.items()}
    fill(network, turned, _modules(network))
    return Model(network, "efficientat-32k", labels)


def _width(tensors: Mapping[str, Tensor]) -> float:
    if _HIDDEN not in tensors:
        raise CheckpointError(f"another network: {_HIDDEN} is missing")
    with torch.device("meta"):  # shapes only
        widths = {MobileNet(1, width=width).hidden.weight.shape: width for width in WIDTHS}
    if tensors[_HIDDEN].shape not in widths:
        raise CheckpointError(f"another network: its width is none of {', '.join(map(str, WIDTHS))}")
    return widths[tensors[_HIDDEN].shape]


def _modules(network: MobileNet) -> dict[str, str]:
    """Published name of each of our modules that has tensors."""
    norms = {"stem": "features.0", "last": f"features.{len(network.blocks) + 1}"}
    modules = {"hidden": "classifier.2", "classifier": "classifier.5"}
    for n, block in enumerate(network.blocks):
        parts = [part for part in ("expand", "depthwise", "squeeze", "project") if getattr(block, part) is not None]
        for k, part in enumerate(parts):
            ours, theirs = f"blocks.{n}.{part}", f"features.{n + 1}.block.{k}"
            if part == "squeeze":
                modules[f"{ours}.down"] = f"{theirs}.conc_se_layers.0.fc1"
                modules[f"{ours}.up"] = f"{theirs}.conc_se_layers.0.fc2"
            else:
                norms[ours] = theirs
    return {**modules, **conv_norms(norms)}


EFFICIENTAT = PublishedWeights(
    _build,
    classifier="classifier.5.weight",
    source="EfficientAT, github.com/fschmid56/EfficientAT, arXiv 2211.04772",
    licence="MIT",
    audioset_order=True,
    unsupported=("_hop_", "_mels_", "_im.", "_im_pytorch"),  # other front ends, and untrained classifiers
)
