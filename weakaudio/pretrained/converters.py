"""Published weights of other projects become models of ours."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from weakaudio.errors import CheckpointError, WeakAudioError
from weakaudio.networks.model import Model
from weakaudio.pretrained import registry
from weakaudio.pretrained.efficientat import EFFICIENTAT
from weakaudio.pretrained.panns import PANNS
from weakaudio.pretrained.paper import PAPER
from weakaudio.pretrained.published import Published

CONVERTERS: dict[str, Published] = {"efficientat": EFFICIENTAT, "panns": PANNS, "paper": PAPER}


def convert(kind: str, path: str | Path, labels: Sequence[str] | None = None) -> Model:
    """A model of a file of published weights, ready for inference (in eval mode, on the CPU).

    Its notes say source, licence and file name.

    Parameters
    ----------
    kind
        Whose layout it is, a name of `CONVERTERS`.
    path
        A file of `torch.save`. It is opened with `weights_only=True`, so that it cannot run code.
    labels
        Class names in the order of the network's outputs. None means AudioSet's 527 in AudioSet's order, where the
        kind has that.

    Raises
    ------
    CheckpointError
        No such kind or file; a pickle that holds more than tensors; tensors of another network; no class names, or
        not as many as classes.
    """
    if kind not in CONVERTERS:
        raise CheckpointError(f"converter {kind!r}: unknown; there are {', '.join(CONVERTERS)}")
    published, path = CONVERTERS[kind], Path(path)
    try:
        for part in published.unlike:
            if part in path.name:
                raise CheckpointError(f"by its name ({part!r}) a network or front end that {kind!r} does not cover")
        tensors = _state_dict(kind, _read(path, published))
        if labels is None:
            labels = _labels(kind)
        n_classes = len(tensors[published.classifier])
        if n_classes != len(labels):
            raise CheckpointError(
                f"weights of {n_classes} classes, but {len(labels)} class names; "
                "give as many, in the order of the network's outputs"
            )
        model = published.build(tensors, labels)
    except WeakAudioError as error:
        raise CheckpointError(f"{path}: {error}") from error
    model.notes = {"source": published.source, "licence": published.licence, "file": path.name}
    return model.eval()


def _labels(kind: str) -> list[str]:
    if not CONVERTERS[kind].audioset_order:
        raise CheckpointError(
            f"the classes of {kind!r} are in an order of their own, which the file does not hold: without the list "
            "published beside it (`classes_id_name.txt`) every score would bear a wrong name; give it by --labels"
        )
    return registry.audioset_labels()


def _state_dict(kind: str, found: object) -> dict[str, Tensor]:
    tensors = _unwrap(found, CONVERTERS[kind])
    if tensors is None:
        where = f" under {CONVERTERS[kind].key!r}" if CONVERTERS[kind].key else ""
        others = [other for other, published in CONVERTERS.items() if _unwrap(found, published) is not None]
        hint = f"; it looks like {others[0]!r}: `weakaudio convert {others[0]}`" if others else ""
        raise CheckpointError(
            f"not weights of the kind {kind!r}: expected a state dict{where} with {CONVERTERS[kind].classifier}{hint}"
        )
    return tensors


def _unwrap(found: object, published: Published) -> dict[str, Tensor] | None:
    """The state dict in what a file holds; None if it is not laid out so."""
    if published.key is not None:
        found = found.get(published.key) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in found.items()
    ):
        return None
    prefix = published.prefix if all(name.startswith(published.prefix) for name in found) else ""
    tensors = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    classifier = tensors.get(published.classifier)
    return None if classifier is None or classifier.ndim < 2 else tensors


def _read(path: Path, published: Published) -> object:
    if not path.is_file():
        raise CheckpointError("no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its message advises to run what the file holds
        raise CheckpointError(
            "not a file of tensors, or one that holds more than that and could run code when opened; nothing of it "
            f"was run; take the file that is published ({published.source})"
        ) from error
    except Exception as error:  # what a damaged file raises depends on the byte that is damaged
        raise CheckpointError(f"cut short or damaged; download it again ({published.source})") from error
