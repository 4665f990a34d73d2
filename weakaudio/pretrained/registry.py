"""Models by name or path; names are those of the catalogue."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import pooch
import torch

from weakaudio.errors import CheckpointError
from weakaudio.networks import build_network
from weakaudio.networks.model import Model
from weakaudio.pretrained.catalogue import Entry, catalogue
from weakaudio.pretrained.checkpoint import open_model, read_header
from weakaudio.pretrained.download import download

# Models that need no file: the paper's network with random weights of a fixed seed, to try things out and as
# the floor that any trained network has to beat.
_UNTRAINED = {
    "untrained-44k": {"front_end": "paper-44k", "n_mels": 128},
    "untrained-16k": {"front_end": "16k", "n_mels": 64},
}
_HOLDS_AUDIOSET_LABELS = "weakaudio-base"


def load_model(name_or_path: str | Path) -> Model:
    """A model ready for inference (in eval mode, on the CPU), by the name `weakaudio models` lists or by path.

    Published weights are downloaded when they are asked for the first time, into the folder that the environment
    variable WEAKAUDIO_CACHE names, else the user's folder for caches.

    Raises
    ------
    CheckpointError
        No such name or file; a pickle; a file cut short, of another format version, of another checksum than
        expected, or whose tensors do not fit the network it names; a download that failed.

    Warns
    -----
    UserWarning
        This project could not verify a published file: the checksum of the first download is kept beside it, and
        checked from then on.
    """
    entry = catalogue().get(str(name_or_path))
    if entry is None:
        if not Path(name_or_path).is_file():
            known = ", ".join(model_names())
            raise CheckpointError(f"{name_or_path}: neither a file nor a model's name; the names are: {known}")
        return open_model(name_or_path)
    if entry.urls:
        return _published(entry)
    return _untrained(entry.name) if entry.path is None else _shipped(entry.name, entry.path)


def model_names() -> list[str]:
    """Names that `load_model` knows."""
    return list(catalogue())


def audioset_labels() -> list[str]:
    """AudioSet's 527 classes in the order of its `class_labels_indices.csv`, as the shipped models have them.

    Raises
    ------
    CheckpointError
        The shipped model that holds them is not in this installation.
    """
    path = catalogue()[_HOLDS_AUDIOSET_LABELS].path
    assert path is not None
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file: the names of AudioSet's classes are taken from it; give them as a file "
            f"(--labels), or {_REMEDY}"
        )
    labels: list[str] = read_header(path)["labels"]
    return labels


_REMEDY = "install weakaudio anew from its wheel or a complete checkout"


def _shipped(name: str, path: Path) -> Model:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file: this installation lacks the weights of {name}; {_REMEDY}")
    return open_model(path)


def _published(entry: Entry) -> Model:
    path = entry.path
    assert path is not None
    opened = partial(_open, entry=entry, labels=audioset_labels() if entry.convert else [])
    record = path.with_name(f"{path.name}.sha256")
    expected = entry.sha256 or _recorded(record)
    if not path.is_file():
        download(replace(entry, sha256=expected), check=opened)
    found = pooch.file_hash(str(path))
    if expected not in (None, found):
        if entry.sha256:
            remedy = f"{expected} was published for {entry.name}; delete it, and it is downloaded anew"
        else:
            remedy = f"{expected} was kept from its first use; if you trust the new file, delete {record}"
        raise CheckpointError(f"{path}: its SHA-256 is {found}, but {remedy}")
    model = opened(path)
    if expected is None:
        _trust(entry, path, record, found)
    return model


def _open(path: Path, entry: Entry, labels: list[str]) -> Model:
    if entry.convert is None:
        model = open_model(path)
    else:
        from weakaudio.pretrained import convert  # which itself asks this module for the labels

        model = convert(entry.convert, path, labels)
    n_parameters = sum(parameter.numel() for parameter in model.network.parameters())
    if entry.parameters not in (None, n_parameters):
        raise CheckpointError(f"{path}: {n_parameters} weights, but {entry.name} has {entry.parameters}")
    if (len(model.labels), model.sample_rate) != (entry.classes, entry.sample_rate):
        raise CheckpointError(
            f"{path}: {len(model.labels)} classes at {model.sample_rate} Hz, but {entry.name} has {entry.classes} at "
            f"{entry.sample_rate} Hz"
        )
    return model


def _recorded(record: Path) -> str | None:
    words = record.read_text(encoding="utf-8", errors="replace").split() if record.is_file() else []
    return words[0] if words else None


def _trust(entry: Entry, path: Path, record: Path, found: str) -> None:
    """Keep the checksum of a file that nobody verified, in the format of `sha256sum`."""
    beside = record.with_name(f".{record.name}.{os.getpid()}")
    try:
        beside.write_text(f"{found}  {path.name}\n", encoding="utf-8")
        os.replace(beside, record)
        kept = f"it is kept in {record} and checked from now on"
    except OSError as error:  # somebody else's cache, filled by hand: still good to read from
        kept = f"it could not be kept beside the file ({error.strerror})"
    warnings.warn(
        f"{entry.name}: the weakaudio project could not verify {path.name} from {entry.urls[0]}; "
        f"its SHA-256 here is {found}; {kept}",
        stacklevel=4,
    )


def _untrained(name: str) -> Model:
    spec = _UNTRAINED[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network("weakcnn", n_classes=527, n_mels=spec["n_mels"])
    labels = [f"untrained class {n}" for n in range(527)]
    return Model(network, str(spec["front_end"]), labels, {"training": "none: random weights"}).eval()
