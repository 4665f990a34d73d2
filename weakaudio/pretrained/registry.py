"""Load a model by name or path: shipped, published (downloaded and converted), or built in code."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import pooch
import torch

from weakaudio.errors import CheckpointError, WriteError
from weakaudio.files import atomic_write
from weakaudio.networks import WeakCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained.catalogue import REINSTALL, Entry, catalogue
from weakaudio.pretrained.checkpoint import open_model
from weakaudio.pretrained.converters import audioset_labels, convert
from weakaudio.pretrained.download import download

# Front end and mel bands of the paper's network with random weights of a fixed seed: a baseline, and for trying
# things out.
_UNTRAINED = {"untrained-44k": ("paper-44k", 128), "untrained-16k": ("16k", 64)}


def load_model(name_or_path: str | Path) -> Model:
    """Load a model for inference (in eval mode, on the CPU), by a name of `list_models` or by path.

    Published weights are downloaded on first use, into the folder that the environment variable WEAKAUDIO_CACHE
    names, else the user's cache folder.

    Raises
    ------
    CheckpointError
        Unknown name or missing file; a pickle; a truncated file, one of another format version or with another
        checksum than expected, or whose tensors do not fit the network it names; a failed download.

    Warns
    -----
    UserWarning
        This project could not verify a published file: the checksum of the first download is kept beside it, and
        checked from then on.
    """
    known = catalogue()
    entry = known.get(str(name_or_path))
    if entry is None:
        if not Path(name_or_path).is_file():
            raise CheckpointError(f"{name_or_path}: neither a file nor a model's name; names: {', '.join(known)}")
        return open_model(name_or_path)
    if entry.urls:
        return _published(entry)
    if entry.path is None:
        return _untrained(entry.name)
    if not entry.is_available:
        raise CheckpointError(f"{entry.path}: no such file: the installation lacks {entry.name}; {REINSTALL}")
    return open_model(entry.path)


def _published(entry: Entry) -> Model:
    path = entry.path
    assert path is not None
    opened = partial(_open, entry=entry, labels=audioset_labels() if entry.convert else [])
    record = path.with_name(f"{path.name}.sha256")
    recorded = record.read_text(encoding="utf-8", errors="replace").split() if record.is_file() else []
    expected = entry.sha256 or next(iter(recorded), None)
    if not path.is_file():
        download(replace(entry, sha256=expected), check=opened)
    found = pooch.file_hash(str(path))
    if expected not in (None, found):
        if entry.sha256:
            remedy = f"{expected} was published for {entry.name}; delete the file to download it again"
        else:
            remedy = f"{expected} was recorded on first use; if you trust the new file, delete {record}"
        raise CheckpointError(f"{path}: its SHA-256 is {found}, but {remedy}")
    model = opened(path)
    if expected is None:
        _trust_on_first_use(entry, path, record, found)
    return model


def _open(path: Path, entry: Entry, labels: list[str]) -> Model:
    """Open a published file, and check it against its entry."""
    model = open_model(path) if entry.convert is None else convert(entry.convert, path, labels)
    n_parameters = sum(parameter.numel() for parameter in model.network.parameters())
    if entry.parameters not in (None, n_parameters):
        raise CheckpointError(f"{path}: {n_parameters} weights, but {entry.name} has {entry.parameters}")
    if (len(model.labels), model.sample_rate) != (entry.classes, entry.sample_rate):
        raise CheckpointError(
            f"{path}: {len(model.labels)} classes at {model.sample_rate} Hz, but {entry.name} has {entry.classes} at "
            f"{entry.sample_rate} Hz"
        )
    return model


def _trust_on_first_use(entry: Entry, path: Path, record: Path, found: str) -> None:
    """Record the checksum of a file that nobody verified, in the format of `sha256sum`, and warn."""
    try:
        with atomic_write(record, unique=True) as part:
            part.write_text(f"{found}  {path.name}\n", encoding="utf-8")
        kept = f"it is kept in {record} and checked from now on"
    except WriteError as error:  # a read-only cache that somebody else filled
        reason = getattr(error.__cause__, "strerror", None) or error
        kept = f"it could not be kept beside the file ({reason})"
    warnings.warn(
        f"{entry.name}: the weakaudio project could not verify {path.name} from {entry.urls[0]}; "
        f"its SHA-256 here is {found}; {kept}",
        stacklevel=4,
    )


def _untrained(name: str) -> Model:
    front_end, n_mels = _UNTRAINED[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = WeakCNN(n_classes=527, n_mels=n_mels)
    labels = [f"untrained class {n}" for n in range(527)]
    return Model(network, front_end, labels, {"training": "none: random weights"}).eval()
