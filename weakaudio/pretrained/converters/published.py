"""Description of published weights, and strict loading of their tensors into a network of this project."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from weakaudio.errors import CheckpointError
from weakaudio.networks import Network
from weakaudio.networks.model import Model


@dataclass(frozen=True)
class PublishedWeights:
    """Layout, source and licence of weights that another project publishes."""

    build: Callable[[Mapping[str, Tensor], Sequence[str]], Model]
    """makes a model from a state dict and the class names in the order of its outputs"""
    classifier: str
    """name of the tensor with one row per class"""
    source: str
    licence: str
    """of the weights"""
    audioset_order: bool
    """whether the classes are those of AudioSet's `class_labels_indices.csv`, in its order"""
    key: str | None = None
    """key of the state dict in the file; None: the file is the state dict"""
    unsupported: tuple[str, ...] = ()
    """parts of the file names of other published networks whose tensors have the same names and shapes"""


def fill(network: Network, tensors: Mapping[str, Tensor], modules: Mapping[str, str]) -> None:
    """Load published tensors into a network, strictly.

    Parameters
    ----------
    network
        Is changed in place.
    tensors
        By their published names, in shapes of `network`.
    modules
        Published name of each module of `network` that has tensors.

    Raises
    ------
    CheckpointError
        A tensor is missing, unknown, or has another shape.
    """
    filled = {}
    unknown = dict(tensors)
    for ours, own in network.state_dict().items():
        module, _, kind = ours.rpartition(".")
        theirs = f"{modules[module]}.{kind}"
        found = unknown.pop(theirs, None)
        if found is None and kind == "num_batches_tracked":  # PyTorch wrote none before 0.4.1
            found = own
        if found is None:
            raise CheckpointError(f"another network: {theirs} is missing")
        if found.shape != own.shape:
            raise CheckpointError(f"another network: {theirs} is {_size(found)}, expected {_size(own)}")
        filled[ours] = found
    if unknown:
        raise CheckpointError(f"another network: {', '.join(sorted(unknown)[:3])} has no place in it")
    network.load_state_dict(filled, strict=True)


def conv_norms(modules: Mapping[str, str]) -> dict[str, str]:
    """Published names of the convolution and normalisation in each `ConvNorm`: items "0" and "1" of a Sequential."""
    parts = (("conv", "0"), ("norm", "1"))
    return {f"{ours}.{own}": f"{theirs}.{n}" for ours, theirs in modules.items() for own, n in parts}


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
