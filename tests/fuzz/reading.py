"""Reads a damaged file in every way the library has, and checks what comes back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from intact_files import KINDS
from numpy.typing import NDArray

from weakaudio.audio.io import EncodedAudio, audio_info, read_audio, stream_audio
from weakaudio.data.corpus import MANIFEST, STORE, Corpus, read_labels, verify_corpus
from weakaudio.data.manifest import read_manifest
from weakaudio.data.store import ClipStore, StoreWriter
from weakaudio.errors import WeakAudioError
from weakaudio.formats.embeddings import EmbeddingTable, read_embeddings
from weakaudio.pretrained import model_checksum
from weakaudio.pretrained.checkpoint import open_model

Outcome = Literal["refused", "read"]

# The most samples of one channel that a byte of each format can hold.
_DENSEST = {
    ".mp3": 24,  # 576 samples in 24 bytes: 8 kbit/s at 24 kHz
    ".flac": 6000,  # a block of 65,535 samples, all the same, in 11 bytes
    ".ogg": 8192,  # a Vorbis block of 8192 samples in one byte
    ".opus": 5760,  # a packet of 120 ms, nothing but its first byte
}
_DENSEST_WAV = 8  # a bit a sample; also AIFF, AU, W64, RF64

# Samples that may be missing without an error where a file was cut: an MP3 encoder's delay and padding.
_MISSING = {".mp3": 2 * 2 * 1152}


def check(kind: str, path: Path, intact: Path, changes: tuple[str, ...]) -> Outcome:
    """Read a damaged file.

    Parameters
    ----------
    kind
        One of `KINDS`.
    path
        The damaged file; what belongs to it (the rest of a corpus) is intact.
    intact
        The file that it was made from.
    changes
        As of `damage`.

    Returns
    -------
    "refused" if the damage was reported, as a `WeakAudioError` or in the table of `verify_corpus`, else "read".

    Raises
    ------
    AssertionError
        The file was read without an error, as something else than was written, or as nothing that could have been.
    Exception
        Any other error is a fault of the library.
    """
    return _CHECKS[kind](path, intact, changes)


def _check_audio(path: Path, seed: Path, changes: tuple[str, ...]) -> Outcome:
    encoded = EncodedAudio(path.read_bytes(), path.name)
    whole = _read(path)
    _expect(_equal(whole, _stream(path)), "read at once it differs from read in blocks")
    for audio in (whole, _read(encoded), _read(path, 8000), _read(path, start=0.1, seconds=0.05)):
        _expect(audio is None or (audio.dtype == np.float32 and audio.ndim == 1 and audio.size > 0), "no samples")
        _expect(audio is None or bool(np.isfinite(audio).all()), "samples that are not finite")
    with suppress(WeakAudioError):
        info = audio_info(path)
        _expect(info.sample_rate > 0 and info.channels > 0 and info.n_samples >= 0, f"an impossible header: {info}")
    if whole is None:
        return "refused"
    most = _DENSEST.get(path.suffix, _DENSEST_WAV) * len(encoded.content)
    _expect(len(whole) <= most, f"{len(whole)} samples, but {len(encoded.content)} bytes hold at most {most}")
    if changes == ("cut",):
        least = _samples(seed) - _MISSING.get(path.suffix, 0)
        _expect(len(whole) >= least, f"cut short, and read without an error: {len(whole)} samples, {least} expected")
    return "read"


def _check_corpus(path: Path, seed: Path, _: tuple[str, ...]) -> Outcome:
    """By `verify_corpus`, which must report any difference of audio and weak labels; then by all other readers."""
    parent = STORE if path.suffix == ".h5" else "."
    root, whole = (file.parents[1] if parent == STORE else file.parent for file in (path, seed))
    outcome: Outcome = "refused"
    with suppress(WeakAudioError):
        if verify_corpus(root).empty:
            _expect(_contents(root) == _written(whole), "verified, but not what was packed")
            outcome = "read"
    with suppress(WeakAudioError):
        store = ClipStore(root / STORE)
        for n in range(len(store)):
            with suppress(WeakAudioError):
                store.audio(n)
    with suppress(WeakAudioError), StoreWriter(root / STORE, 16000):
        pass
    with suppress(WeakAudioError):
        corpus = Corpus(root)
        corpus.targets(corpus.select({"split": "train"}))
    return outcome


def _check_manifest(path: Path, seed: Path, changes: tuple[str, ...]) -> Outcome:
    for labels in (None, read_labels(path.parent)):
        for check_files in (False, True):
            with suppress(WeakAudioError):
                manifest = read_manifest(path, labels, check_files)
                paths = list(manifest.table["path"])
                sane = all(isinstance(name, str) and name for name in paths) and len(set(paths)) == len(paths)
                _expect(sane, f"paths {paths}")
                _expect(
                    all(isinstance(names, list) for names in manifest.table["labels"]), "labels that are not lists"
                )
                with suppress(WeakAudioError):
                    _expect(len(manifest.label_set) > 0, "no labels")
    return _check_corpus(path, seed, changes)


def _check_class_list(path: Path, seed: Path, changes: tuple[str, ...]) -> Outcome:
    return _check_corpus(path, seed, changes)


def _check_events(path: Path, _seed: Path, _changes: tuple[str, ...]) -> Outcome:
    try:
        events = Corpus(path.parent).events()
    except WeakAudioError:
        return "refused"
    _expect({"path", "label", "onset", "offset"} <= set(events.columns), f"columns {list(events.columns)}")
    for column in ("onset", "offset"):
        _expect(pd.api.types.is_numeric_dtype(events[column]), f"{column} is not a number")
        _expect(bool(np.isfinite(events[column]).all()), f"{column} is not finite")
    _expect(bool((events["onset"] <= events["offset"]).all()), "an event that ends before it begins")
    _expect(all(isinstance(name, str) for column in ("path", "label") for name in events[column]), "no names")
    return "read"


def _check_embeddings(path: Path, seed: Path, changes: tuple[str, ...]) -> Outcome:
    try:
        table = read_embeddings(path)
    except WeakAudioError:
        return "refused"
    _expect(table.embeddings.ndim == 2 and table.embeddings.dtype == np.float32, "embeddings of another kind")
    _expect(bool(np.isfinite(table.embeddings).all()), "embeddings that are not finite")
    _expect(all(isinstance(name, str) for name in table.paths), "paths that are not text")
    _expect(all(isinstance(value, str) for value in table.metadata.values()), "metadata that are not text")
    segments = (table.clip, table.start, table.end)
    if table.clip is None or table.start is None or table.end is None:
        _expect(all(column is None for column in segments), "some columns of segments and not all")
        _expect(len(table.paths) == len(table.embeddings), "more or fewer paths than embeddings")
    else:
        _expect(all(column.shape == (len(table.embeddings),) for column in segments if column is not None), "shapes")
        _expect(np.issubdtype(table.clip.dtype, np.integer), "positions that are not integers")
        inside = (table.clip >= 0) & (table.clip < len(table.paths))
        _expect(bool(inside.all()), "segments of clips that do not exist")
        times = np.stack([table.start, table.end]).astype(float)
        _expect(bool(np.isfinite(times).all()), "times that are not finite")
    if path.suffix == ".npz" and "inside" not in changes:  # the archive has checksums
        whole = [read_embeddings(other) for other in seed.parent.glob("*.npz")]  # or the other one, if spliced in
        _expect(any(_same(table, other) for other in whole), "not what was written")
    return "read"


def _check_checkpoint(path: Path, seed: Path, changes: tuple[str, ...]) -> Outcome:
    try:
        model = open_model(path)
    except WeakAudioError:
        return "refused"
    tensors = [tensor for tensor in model.network.state_dict().values() if tensor.is_floating_point()]
    _expect(all(bool(torch.isfinite(tensor).all()) for tensor in tensors), "weights that are not finite")
    _expect(len(model.labels) == model.network.classifier.out_features, "more or fewer labels than classes")
    if "unsealed" not in seed.name:
        _expect(model_checksum(model) == _model_checksum(seed), "not what was saved")
    return "read"


_CHECKS: dict[str, Callable[[Path, Path, tuple[str, ...]], Outcome]] = {
    **dict.fromkeys(("WAV", "AIFF, AU", "FLAC", "OGG", "MP3"), _check_audio),
    "clip store": _check_corpus,
    "manifest": _check_manifest,
    "class list": _check_class_list,
    "strong truth": _check_events,
    **dict.fromkeys(("embeddings HDF5", "embeddings NPZ", "embeddings Parquet"), _check_embeddings),
    "checkpoint": _check_checkpoint,
}
assert _CHECKS.keys() == KINDS.keys()


def _expect(right: bool, what: str) -> None:
    assert right, what


def _read(path: Path | EncodedAudio, sample_rate: int | None = None, **part: float) -> NDArray[np.float32] | None:
    with suppress(WeakAudioError):
        return read_audio(path, sample_rate, **part)[0]
    return None


def _stream(path: Path) -> NDArray[np.float32] | None:
    with suppress(WeakAudioError):
        return np.concatenate(list(stream_audio(path, block_seconds=0.1)))
    return None


def _equal(one: NDArray[np.float32] | None, other: NDArray[np.float32] | None) -> bool:
    return one is other if one is None or other is None else np.array_equal(one, other)


@cache
def _samples(seed: Path) -> int:
    return len(read_audio(seed)[0])


@cache
def _written(root: Path) -> dict[str, Any]:
    return _contents(root)


@cache
def _model_checksum(seed: Path) -> str:
    return model_checksum(open_model(seed))


def _contents(root: Path) -> dict[str, Any]:
    """All that verification covers: rate, samples and labels of the store, paths and labels of the manifest."""
    store = ClipStore(root / STORE)
    table = read_manifest(root / MANIFEST, check_files=False).table
    return {
        "sample_rate": store.sample_rate,
        "store": {key: (store.labels[n], store.audio(n).tobytes()) for n, key in enumerate(store.keys)},
        "manifest": dict(zip(table["path"], table["labels"], strict=True)),
    }


def _same(one: EmbeddingTable, other: EmbeddingTable) -> bool:
    names = ("embeddings", "clip", "start", "end")
    return (one.paths, one.metadata) == (other.paths, other.metadata) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in names
    )
