"""Published weights of other projects, converted to models: one file a publisher, listed in `CONVERTERS`."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from weakaudio.errors import CheckpointError, WeakAudioError
from weakaudio.networks.model import Model
from weakaudio.pretrained.converters.class_list import audioset_labels, read_class_list
from weakaudio.pretrained.converters.efficientat import EFFICIENTAT
from weakaudio.pretrained.converters.panns import PANNS
from weakaudio.pretrained.converters.paper import PAPER
from weakaudio.pretrained.converters.published import PublishedWeights

CONVERTERS: dict[str, PublishedWeights] = {"efficientat": EFFICIENTAT, "panns": PANNS, "paper": PAPER}


def convert(kind: str, path: str | Path, labels: Sequence[str] | None = None) -> Model:
    """Convert a file of published weights to a model for inference (in eval mode, on the CPU).

    The model's metadata hold source, licence and file name.

    Parameters
    ----------
    kind
        Publisher of the weights, a key of `CONVERTERS`.
    path
        A file of `torch.save`. It is opened with `weights_only=True`, so that it cannot run code.
    labels
        Class names in the order of the network's outputs. None: AudioSet's 527 in AudioSet's order, for the kinds
        that have it.

    Raises
    ------
    CheckpointError
        Unknown kind or missing file; a pickle that holds more than tensors; tensors of another network; class names
        that are missing, or of another number than the network's classes.
    """
    if kind not in CONVERTERS:
        raise CheckpointError(f"converter {kind!r}: unknown; there are {', '.join(CONVERTERS)}")
    published, path = CONVERTERS[kind], Path(path)
    try:
        for part in published.unsupported:
            if part in path.name:
                raise CheckpointError(f"{part!r} in its name: a network or front end that {kind!r} does not support")
        tensors = _state_dict(kind, _read(path, published))
        if labels is None:
            if not published.audioset_order:
                raise CheckpointError(
                    f"{kind!r} orders its classes in its own way, which the file does not hold; without the "
                    "published list (`classes_id_name.txt`) every score would get a wrong name; give it as --labels"
                )
            labels = audioset_labels()
        n_classes = len(tensors[published.classifier])
        if n_classes != len(labels):
            raise CheckpointError(
                f"weights of {n_classes} classes, but {len(labels)} class names; "
                "give as many, in the order of the network's outputs"
            )
        model = published.build(tensors, labels)
    except WeakAudioError as error:
        raise CheckpointError(f"{path}: {error}") from error
    model.metadata = {"source": published.source, "licence": published.licence, "file": path.name}
    return model.eval()


def _state_dict(kind: str, content: object) -> dict[str, Tensor]:
    tensors = _unwrap(content, CONVERTERS[kind])
    if tensors is None:
        key = f" under {CONVERTERS[kind].key!r}" if CONVERTERS[kind].key else ""
        others = [other for other, published in CONVERTERS.items() if _unwrap(content, published) is not None]
        hint = f"; it looks like {others[0]!r}: `weakaudio convert {others[0]}`" if others else ""
        raise CheckpointError(
            f"not weights of the kind {kind!r}: expected a state dict{key} with {CONVERTERS[kind].classifier}{hint}"
        )
    return tensors


def _unwrap(content: object, published: PublishedWeights) -> dict[str, Tensor] | None:
    """The state dict in a file's content; None if the content has another layout."""
    if published.key is not None:
        content = content.get(published.key) if isinstance(content, Mapping) else None
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        return None
    prefix = "module." if all(name.startswith("module.") for name in content) else ""  # of torch's DataParallel
    tensors = {name.removeprefix(prefix): tensor for name, tensor in content.items()}
    classifier = tensors.get(published.classifier)
    return None if classifier is None or classifier.ndim < 2 else tensors


def _read(path: Path, published: PublishedWeights) -> object:
    if not path.is_file():
        raise CheckpointError("no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's message recommends running the file's code
        raise CheckpointError(
            "not a file of tensors, or one that holds more than that and could run code when opened; nothing of it "
            f"was run; use the published file ({published.source})"
        ) from error
    except Exception as error:  # the type depends on which byte is damaged
        raise CheckpointError(f"truncated or damaged; download it again ({published.source})") from error


__all__ = ["CONVERTERS", "PublishedWeights", "audioset_labels", "convert", "read_class_list"]
