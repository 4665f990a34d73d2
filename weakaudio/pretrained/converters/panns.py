"""Weights of PANNs: Cnn14 at 32 kHz, `Cnn14_mAP=0.431.pth`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from weakaudio.audio.frontend import LogMel
from weakaudio.errors import CheckpointError
from weakaudio.networks import Cnn14
from weakaudio.networks.model import Model
from weakaudio.networks.panns import EMBEDDING
from weakaudio.pretrained.converters.published import PublishedWeights, fill

_FILTERS = "logmel_extractor.melW"
_TRANSFORM = ("spectrogram_extractor.stft.conv_real.weight", "spectrogram_extractor.stft.conv_imag.weight")


def _build(tensors: Mapping[str, Tensor], labels: Sequence[str]) -> Model:
    """Build the network; the published tensors of the front end are compared with `panns-32k` and dropped."""
    logmel = LogMel("panns-32k")
    _check_front_end(tensors, logmel)
    network = Cnn14(len(labels), width=tensors[PANNS.classifier].shape[1] / EMBEDDING)
    modules = {"norm": "bn0", "hidden": "fc1", "classifier": "fc_audioset"}
    for block in range(len(network.blocks)):
        for n in range(2):
            modules[f"blocks.{block}.{n}.conv"] = f"conv_block{block + 1}.conv{n + 1}"
            modules[f"blocks.{block}.{n}.norm"] = f"conv_block{block + 1}.bn{n + 1}"
    fill(network, {name: t for name, t in tensors.items() if name not in (_FILTERS, *_TRANSFORM)}, modules)
    # Our decibels are shifted so that silence is 0.
    assert network.norm.running_mean is not None
    network.norm.running_mean += logmel.front_end.shift
    return Model(network, logmel.front_end, labels)


def _check_front_end(tensors: Mapping[str, Tensor], logmel: LogMel) -> None:
    for name in (_FILTERS, *_TRANSFORM):
        if name not in tensors:
            raise CheckpointError(f"another network: {name} is missing")
    theirs, ours = tensors[_FILTERS], logmel.filters
    n_fft = logmel.front_end.n_fft
    if (
        any(tensors[name].shape != (n_fft // 2 + 1, 1, n_fft) for name in _TRANSFORM)
        or theirs.shape != ours.shape
        or (theirs - ours).abs().max() > 1e-3 * ours.max()
    ):
        raise CheckpointError("another front end: its filters are not those of 32 kHz, 64 mels, 50 to 14000 Hz")


PANNS = PublishedWeights(
    _build,
    classifier="fc_audioset.weight",
    source="PANNs, zenodo.org/record/3987831, arXiv 1912.10211",
    licence="CC BY 4.0",
    audioset_order=True,
    key="model",
    unsupported=("DecisionLevel",),
)
