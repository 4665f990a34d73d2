"""Model files: safetensors whose header describes network, front end and classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from weakaudio.audio.frontend import FrontEnd
from weakaudio.data.labels import LabelSet
from weakaudio.errors import CheckpointError, LabelError, WeakAudioError, WriteError
from weakaudio.files import atomic_write
from weakaudio.networks import NETWORKS, build_network, network_name
from weakaudio.networks.model import Model

FORMAT_VERSION = 2
_METADATA = {1: "notes", 2: "metadata"}  # name of the header's free entry, in each format that this release reads
_KEY = "weakaudio"
# What opening a damaged file raises, depending on the damaged part.
_DAMAGE = (WeakAudioError, safetensors.SafetensorError, RuntimeError, TypeError, KeyError, ValueError, MemoryError)


def save_model(model: Model, path: str | Path, half: bool = False) -> None:
    """Write a model atomically to one self-describing safetensors file.

    The header holds, as JSON: format version, network name and arguments, front end, labels, metadata, and the
    SHA-256 of all of these and the tensors.

    Parameters
    ----------
    half
        Store weights of more than one dimension as float16, at half the size; they are loaded as float32.

    Raises
    ------
    CheckpointError
        A fused network, another number of labels than classes, values that are not finite, or a file that cannot
        be written.
    """
    path = Path(path)
    if len(model.labels) != model.network.classifier.out_features:
        raise CheckpointError(
            f"{path}: {len(model.labels)} labels for {model.network.classifier.out_features} classes"
        )
    with torch.device("meta"):  # names only: takes no memory and no random numbers
        rebuilt = build_network(network_name(model.network), **model.network.config)
    if rebuilt.state_dict().keys() != model.network.state_dict().keys():
        raise CheckpointError(f"{path}: a fused network cannot be saved; save the model it was made from")
    header: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "network": network_name(model.network),
        "config": model.network.config,
        "front_end": model.front_end.to_dict(),
        "labels": model.labels,
        "metadata": model.metadata,
    }
    tensors = {
        name: (tensor.half() if half and tensor.ndim > 1 else tensor)
        .detach()
        .cpu()
        .contiguous(memory_format=torch.contiguous_format)
        for name, tensor in model.network.state_dict().items()
    }
    if broken := _not_finite(tensors):
        raise CheckpointError(f"{path}: {broken[0]} holds NaN, infinity, or a value beyond float16")
    header["sha256"] = _checksum(header, tensors)
    try:
        with atomic_write(path) as part:
            part.write_bytes(safetensors.torch.save(tensors, {_KEY: json.dumps(header)}))
    except WriteError as error:
        raise CheckpointError(str(error)) from error


def open_model(path: str | Path) -> Model:
    """Load a model for inference (in eval mode, on the CPU) from its file.

    Raises
    ------
    CheckpointError
        Missing file; a pickle; a truncated or altered file, one of another format version, or whose tensors are not
        finite or do not fit the network it names.
    """
    path = Path(path)
    header = _stored_header(path)
    try:
        tensors = safetensors.torch.load_file(path)
        if header.get("sha256", "") not in ("", _checksum(header, tensors)):  # the first files had none
            raise CheckpointError("their SHA-256 is not that of what was saved; copy or export the file again")
        if broken := _not_finite(tensors):
            raise CheckpointError(f"{broken[0]} holds NaN or infinity")
        network = build_network(header["network"], **header["config"])
        front_end = FrontEnd(**header["front_end"])
        network.load_state_dict(tensors, strict=True)
        labels = header["labels"]
        if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
            raise LabelError("labels are not a list of names")
        model = Model(network, front_end, LabelSet(labels).names, header[_METADATA[header["format_version"]]])
    except _DAMAGE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: its tensors and header do not fit together: {reason}") from error
    return model.eval()


def read_header(path: str | Path) -> dict[str, Any]:
    """Read a model file's header: format_version, network, config, front_end, labels, metadata, sha256.

    Raises
    ------
    CheckpointError
        Missing file, or not a weakaudio safetensors file of a format that this release reads.
    """
    header = _stored_header(Path(path))
    header["metadata"] = header.pop(_METADATA[header["format_version"]], {})
    return header


def _stored_header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise CheckpointError(
            f"{path}: a pickle (torch.save or a training checkpoint), which could run code when opened; "
            "weakaudio opens its own .safetensors files; `weakaudio convert` turns published weights into one"
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
        version = header["format_version"]
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not a weakaudio model, or truncated ({error})") from error
    if version not in list(_METADATA):  # any JSON value
        raise CheckpointError(
            f"{path}: written in format {version}, this release reads formats up to {FORMAT_VERSION}; "
            "open it with the release that wrote it, or export it again"
        )
    return dict(header)


def model_checksum(model: Model) -> str:
    """SHA-256 of everything that determines a model's output: network, front end, labels, tensors (not metadata)."""
    digest = hashlib.sha256()
    network = model.network
    kind = network_name(network) if type(network) in NETWORKS.values() else type(network).__qualname__
    description = [kind, network.config, model.front_end.to_dict(), model.labels]
    digest.update(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(model.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous(memory_format=torch.contiguous_format).numpy().tobytes())
    return digest.hexdigest()


def _not_finite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    return [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of a file's header, without its own entry, and of its tensors (contiguous, on the CPU)."""
    covered = {name: value for name, value in header.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(covered).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
