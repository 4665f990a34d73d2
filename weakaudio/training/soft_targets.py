"""Knowledge distillation: a teacher's class probabilities as soft targets of training clips, and of single sounds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from weakaudio.data.corpus import Corpus
from weakaudio.data.datamodule import Batch, ClipDataset, clip_loader
from weakaudio.data.mixtures import CHUNK_SECONDS
from weakaudio.errors import CheckpointError, LabelError, ProtocolError
from weakaudio.files import atomic_write
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import stack
from weakaudio.pretrained.checkpoint import model_checksum
from weakaudio.pretrained.registry import load_model
from weakaudio.progress import progress

SoftTargets = Callable[[Batch], Tensor]
"""Gives the (B, C) probabilities of a batch's clips, on the batch's device."""

SUFFIX = ".h5"  # of files of soft targets
_FORMAT = 1
_ALONE_SECONDS, _PAUSE_SECONDS = 2, 0.5


def open_teacher(name: str | Path, dataset: ClipDataset, labels: list[str]) -> SoftTargets:
    """The soft targets that a teacher gives for the clips of a dataset.

    Parameters
    ----------
    name
        Name or path of a model, which scores each batch during training, after augmentation and before mixup; or a
        file of `write_soft_targets`, which has one answer for each clip.
    labels
        Classes of the network that is trained.

    Raises
    ------
    LabelError
        The teacher has other classes, or the same in another order.
    ProtocolError
        The model takes another sample rate, or a clip is not in the file.
    CheckpointError
        No such model or file, or it is damaged.
    """
    if Path(name).suffix == SUFFIX:
        return _stored(Path(name), dataset, labels)
    return _computed(load_model(name), str(name), dataset.store.sample_rate, labels)


def write_soft_targets(
    model: Model,
    corpus: Corpus,
    path: str | Path,
    where: Mapping[str, object],
    batch_seconds: float = 160.0,
    device: str | torch.device = "cpu",
) -> int:
    """Score clips with a model once, for `open_teacher`; returns the number of clips.

    The file is HDF5, written atomically: `paths` (clips,), `probs` (clips, C) float16; attributes `format_version`,
    `labels` (JSON) and `model` (checksum).

    Parameters
    ----------
    where
        Column values that select the clips.
    batch_seconds
        Most audio in a batch.

    Raises
    ------
    ProtocolError
        The model takes another sample rate than the corpus has.
    CheckpointError
        `path` does not end in .h5, by which `open_teacher` recognises it.
    WriteError
        The file cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise CheckpointError(f"{path}: files of soft targets end in {SUFFIX}")
    if corpus.store.sample_rate != model.sample_rate:
        raise ProtocolError(
            f"{corpus.root}: clips at {corpus.store.sample_rate} Hz, the model takes {model.sample_rate} Hz"
        )
    dataset = ClipDataset(corpus, dict(where))
    model.to(device).eval()
    probs = np.zeros((len(dataset), len(model.labels)), dtype=np.float16)
    loader = clip_loader(dataset, batch_seconds)
    with torch.inference_mode():
        for batch in progress(loader, len(loader), "soft targets"):
            probs[batch.clips] = model(batch.waveform.to(device), batch.lengths.to(device)).clip_probs.cpu()
    with atomic_write(path) as partial, h5py.File(partial, "w") as file:
        file["paths"] = [corpus.store.keys[n] for n in dataset.positions]
        file["probs"] = probs
        attributes = {"format_version": _FORMAT, "labels": json.dumps(model.labels), "model": model_checksum(model)}
        file.attrs.update(attributes)
    return len(dataset)


def _computed(model: Model, name: str, sample_rate: int, labels: list[str]) -> SoftTargets:
    _check_classes(name, model.labels, labels)
    if model.sample_rate != sample_rate:
        raise ProtocolError(
            f"teacher {name}: takes {model.sample_rate} Hz, the clips are at {sample_rate} Hz; let it write soft "
            "targets from a corpus at its own rate (`weakaudio teach`), and name that file"
        )

    @torch.no_grad()
    def score(batch: Batch) -> Tensor:
        probs: Tensor = model.to(batch.waveform.device)(batch.waveform, batch.lengths).clip_probs
        return probs

    return score


def write_sound_targets(
    model: Model, corpus: Corpus, path: str | Path, device: str | torch.device = "cpu", batch: int = 16
) -> None:
    """Score each sound of a corpus by itself, for the targets over time of `Mixtures`.

    A sound longer than 5 s is cut into excerpts. The probability of a class is the greater one of two views of an
    excerpt: alone, in at least 2 s, and repeated with pauses over 5 s. Written atomically (`SoundTargets`).

    Raises
    ------
    ProtocolError
        The model takes another sample rate than the corpus has.
    WriteError
        The file cannot be written.
    """
    rate, store = model.sample_rate, corpus.store
    if store.sample_rate != rate:
        raise ProtocolError(f"{corpus.root}: clips at {store.sample_rate} Hz, the model takes {rate} Hz")
    size, least, pause = round(CHUNK_SECONDS * rate), _ALONE_SECONDS * rate, round(_PAUSE_SECONDS * rate)
    counts = [-(-n // size) for n in store.n_samples]
    first = np.concatenate([[0], np.cumsum(counts)])
    probs = np.zeros((first[-1], len(model.labels)), np.float16)
    places = [(n, k) for n, count in enumerate(counts) for k in range(count)]
    model.to(device).eval()
    with torch.inference_mode():
        for start in progress(range(0, len(places), batch), -(-len(places) // batch), "targets of sounds"):
            alone, repeated = [], []
            for n, k in places[start : start + batch]:
                sound = store.audio(n)[k * size : (k + 1) * size]
                alone.append(np.pad(sound, (0, max(least - len(sound), 0))))
                repeated.append(np.resize(np.pad(sound, (0, pause)), size))
            views = [model(*stack(clips, torch.device(device))).clip_probs for clips in (alone, repeated)]
            probs[start : start + batch] = torch.maximum(*views).cpu()
    with atomic_write(path) as partial, h5py.File(partial, "w") as file:
        file["paths"], file["first"], file["probs"] = store.keys, first, probs
        file.attrs.update({"labels": json.dumps(model.labels), "model": model_checksum(model)})


def _stored(path: Path, dataset: ClipDataset, labels: list[str]) -> SoftTargets:
    try:
        with h5py.File(path, "r") as file:
            if file.attrs["format_version"] != _FORMAT:
                raise CheckpointError(f"{path}: soft targets of another version; write them again")
            names = json.loads(file.attrs["labels"])
            rows = {key: n for n, key in enumerate(file["paths"].asstr()[:])}
            probs = file["probs"][:]
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: not a file of soft targets, or damaged ({error})") from error
    _check_classes(str(path), names, labels)
    keys = [dataset.store.keys[n] for n in dataset.positions]
    missing = [key for key in keys if key not in rows]
    if missing:
        raise ProtocolError(f"{path}: no soft targets of {len(missing)} clips, the first is {missing[0]}")
    chosen = torch.from_numpy(probs[[rows[key] for key in keys]].astype(np.float32))
    return lambda batch: chosen[batch.clips.cpu()].to(batch.targets.device)


def _check_classes(name: str, theirs: list[str], ours: list[str]) -> None:
    if theirs != ours:
        odd = next((pair for pair in zip(theirs, ours, strict=False) if pair[0] != pair[1]), None)
        detail = f", the first that differs: {odd[0]!r} and {odd[1]!r}" if odd else ""
        raise LabelError(
            f"teacher {name}: its {len(theirs)} classes are not the {len(ours)} of the corpus in order{detail}"
        )
