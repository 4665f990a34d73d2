"""Files that cannot be read, of many kinds."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

Maker = Callable[[np.random.Generator], bytes]

_RATE = 16000


def _encoded(format: str, subtype: str, audio: NDArray[np.float64]) -> bytes:
    file = io.BytesIO()
    sf.write(file, audio, _RATE, format=format, subtype=subtype)
    return file.getvalue()


def _noise(rng: np.random.Generator, seconds: float = 2.0) -> NDArray[np.float64]:
    return 0.1 * rng.standard_normal(round(seconds * _RATE))


def _part(format: str, subtype: str, kept: float) -> Maker:
    """The first part of a file, as after a transfer that broke off."""

    def make(rng: np.random.Generator) -> bytes:
        whole = _encoded(format, subtype, _noise(rng))
        return whole[: int(kept * len(whole))]

    return make


def _bad_sample(value: float) -> Maker:
    def make(rng: np.random.Generator) -> bytes:
        audio = _noise(rng)
        audio[1000] = value
        return _encoded("WAV", "FLOAT", audio)

    return make


def _other(start: bytes) -> Maker:
    return lambda rng: start + rng.bytes(2000)


# Ending, what a reason must say, and the content.
KINDS: dict[str, tuple[str, str, Maker]] = {
    "empty": (".wav", "empty file", lambda rng: b""),
    "text": (".wav", "not audio", lambda rng: b"the battery was low\n" * 9),
    "zeros": (".flac", "not audio", lambda rng: bytes(4096)),
    "picture": (".mp3", "not audio", _other(b"\x89PNG\r\n\x1a\n")),
    "archive": (".ogg", "not audio", _other(b"PK\x03\x04")),
    "page": (".wav", "not audio", lambda rng: b"<!doctype html><title>404</title>"),
    "header alone": (".wav", "truncated", lambda rng: _encoded("WAV", "PCM_16", _noise(rng))[:44]),
    "half of a header": (".wav", "not audio", lambda rng: _encoded("WAV", "PCM_16", _noise(rng))[:20]),
    "cut WAV": (".wav", "truncated", _part("WAV", "PCM_16", 0.6)),
    "cut FLAC": (".flac", "truncated", _part("FLAC", "PCM_16", 0.6)),
    "cut OGG": (".ogg", "truncated", _part("OGG", "VORBIS", 0.6)),
    "cut AIFF": (".aiff", "truncated", _part("AIFF", "PCM_16", 0.6)),
    "NaN": (".wav", "NaN", _bad_sample(np.nan)),
    "infinity": (".wav", "NaN or infinite", _bad_sample(np.inf)),
    "no samples": (".wav", "no samples", lambda rng: _encoded("WAV", "PCM_16", np.zeros(0))),
    "cut FLAC header": (".flac", "not audio", lambda rng: _encoded("FLAC", "PCM_16", _noise(rng))[:30]),
}


def plant(folder: Path, count: int, seed: int = 0) -> dict[str, str]:
    """Write so many broken files into a folder, of all kinds in turn.

    Returns
    -------
    Their names, and what the reason of each must say.
    """
    rng = np.random.default_rng(seed)
    planted = {}
    for n in range(count):
        kind, (ending, said, make) = list(KINDS.items())[n % len(KINDS)]
        name = f"broken {n:02d} {kind}{ending}"
        (folder / name).write_bytes(make(rng))
        planted[name] = said
    return planted
