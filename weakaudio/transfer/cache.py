"""Embeddings of recordings, kept on disk between runs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weakaudio.errors import AudioError, WeakAudioError
from weakaudio.inference.embedder import Embedder

_AT_ONCE = 256  # recordings that are embedded before their embeddings are kept: what a kill costs at most


def embed_cached(embedder: Embedder, paths: Sequence[str | Path], cache: Path) -> NDArray[np.float32]:
    """(n, D) clip embeddings as `Embedder.embed_files` gives them, from the cache where they are known.

    Raises
    ------
    AudioError
        A recording that is not there or cannot be read.
    WeakAudioError
        The cache cannot be written.
    """
    kind = json.dumps([embedder.checksum, embedder.layer, embedder.pooling, embedder.dtype])
    folder = cache / hashlib.sha256(kind.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        places = [folder / f"{_fingerprint(path)}.npy" for path in paths]
        unknown = [n for n, place in enumerate(places) if not place.is_file()]
        for start in range(0, len(unknown), _AT_ONCE):
            some = unknown[start : start + _AT_ONCE]
            for n, row in zip(some, embedder.embed_files([paths[n] for n in some]), strict=True):
                beside = places[n].with_suffix(f".{os.getpid()}.part")
                with beside.open("wb") as file:
                    np.save(file, row)
                os.replace(beside, places[n])
        return np.stack([np.load(place) for place in places])
    except (OSError, ValueError) as error:  # ValueError: a file of it was damaged
        raise WeakAudioError(f"{folder}: the cache of embeddings cannot be used ({error}); delete it") from error


def _fingerprint(path: str | Path) -> str:
    try:
        facts = os.stat(path)
    except OSError as error:
        raise AudioError(f"{path}: cannot be opened ({error.strerror})") from error
    text = json.dumps([os.path.abspath(path), facts.st_size, facts.st_mtime_ns])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
