"""What converters share: a description of weights that others publish, and filling one of our networks strictly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from weakaudio.errors import CheckpointError
from weakaudio.networks import Network
from weakaudio.networks.model import Model


@dataclass(frozen=True)
class Published:
    """Weights as somebody publishes them."""

    build: Callable[[Mapping[str, Tensor], Sequence[str]], Model]
    """a model of a state dict and the class names in the order of its outputs"""
    classifier: str
    """the tensor with a row for each class"""
    source: str
    licence: str
    """of the weights"""
    audioset_order: bool
    """whether the classes are those of AudioSet's `class_labels_indices.csv`, in its order"""
    key: str | None = None
    """under which the file holds the state dict; None where it is one"""
    prefix: str = ""
    """of all names, where the file has it"""
    unlike: tuple[str, ...] = ()
    """parts of the file names of other published networks whose tensors have the same names and shapes"""


def fill(network: Network, tensors: Mapping[str, Tensor], modules: Mapping[str, str]) -> None:
    """Put published tensors in their places, strictly.

    Parameters
    ----------
    network
        To be filled.
    tensors
        By their published names, in shapes of `network`.
    modules
        Published name of each of our modules that has tensors.

    Raises
    ------
    CheckpointError
        A tensor that is missing, is not known, or has another shape.
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


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
