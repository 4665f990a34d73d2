"""Files that cannot be read, of many kinds."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile as sf

Maker = Callable[[np.random.Generator], bytes]


def _audio(
    format: str = "WAV", subtype: str = "PCM_16", seconds: float = 2.0, kept: float = 1.0, sample: float | None = None
) -> Maker:
    """Noise; the first part (below 1) or number of bytes of the file, or with one sample replaced."""

    def make(rng: np.random.Generator) -> bytes:
        audio = 0.1 * rng.standard_normal(round(seconds * 16000))
        if sample is not None:
            audio[1000] = sample
        file = io.BytesIO()
        sf.write(file, audio, 16000, format=format, subtype=subtype)
        content = file.getvalue()
        return content[: int(kept * len(content) if kept <= 1 else kept)]

    return make


def _other(start: bytes) -> Maker:
    return lambda rng: start + rng.bytes(2000)


# Ending, what a reason must contain, and the content.
KINDS: dict[str, tuple[str, str, Maker]] = {
    "empty": (".wav", "empty file", lambda rng: b""),
    "text": (".wav", "not audio", lambda rng: b"the battery was low\n" * 9),
    "zeros": (".flac", "not audio", lambda rng: bytes(4096)),
    "picture": (".mp3", "not audio", _other(b"\x89PNG\r\n\x1a\n")),
    "archive": (".ogg", "not audio", _other(b"PK\x03\x04")),
    "page": (".wav", "not audio", lambda rng: b"<!doctype html><title>404</title>"),
    "header alone": (".wav", "truncated", _audio(kept=44)),
    "half of a header": (".wav", "not audio", _audio(kept=20)),
    "cut WAV": (".wav", "truncated", _audio(kept=0.6)),
    "cut FLAC": (".flac", "truncated", _audio("FLAC", kept=0.6)),
    "cut OGG": (".ogg", "truncated", _audio("OGG", "VORBIS", kept=0.6)),
    "cut AIFF": (".aiff", "truncated", _audio("AIFF", kept=0.6)),
    "NaN": (".wav", "NaN", _audio(subtype="FLOAT", sample=np.nan)),
    "infinity": (".wav", "NaN or infinite", _audio(subtype="FLOAT", sample=np.inf)),
    "no samples": (".wav", "no samples", _audio(seconds=0)),
    "cut FLAC header": (".flac", "not audio", _audio("FLAC", kept=30)),
}


def plant(folder: Path, count: int, seed: int = 0) -> dict[str, str]:
    """Write so many broken files into a folder, of all kinds in turn.

    Returns
    -------
    Their names, and what the reason of each must contain.
    """
    rng = np.random.default_rng(seed)
    planted = {}
    for n in range(count):
        kind, (ending, reason, make) = list(KINDS.items())[n % len(KINDS)]
        name = f"broken {n:02d} {kind}{ending}"
        (folder / name).write_bytes(make(rng))
        planted[name] = reason
    return planted
