"""Files into a clip store and batches out of it, against plain loops over files."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import h5py
import librosa
import numpy as np
import soundfile as sf
import torch
from weakaudio_data_prep import folder

from recipes.benchmark.compare import Comparison, Scale, compare, noise
from weakaudio.audio.io import find_audio, to_int16, write_wav
from weakaudio.data.corpus import Corpus
from weakaudio.data.datamodule import ClipDataset, clip_loader

_FILE_RATE = 44100  # Hz
_STORE_RATE = 32000  # Hz
_TIMES = 4  # as many files as elsewhere clips


def measure(scale: Scale) -> list[Comparison]:
    """Packing with resampling, 44.1 to 32 kHz; reading batches at 44.1 kHz. Files are in the page cache."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        sounds = _write_sounds(base / "sounds", scale)
        return [_packing(sounds, base, scale), _reading(sounds, base, scale)]


def _write_sounds(root: Path, scale: Scale) -> Path:
    for n in range(_TIMES * scale.clips):
        path = root / f"class{n % 2}" / f"{n:03d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, noise(n, scale, _FILE_RATE), _FILE_RATE)
    return root


def _packing(sounds: Path, base: Path, scale: Scale) -> Comparison:
    files = find_audio(sounds)
    number = itertools.count()  # every run writes anew: preparing twice would only find all clips there

    def plain() -> None:
        with h5py.File(base / f"plain{next(number)}.h5", "w") as file:
            audio = file.create_dataset("audio", (len(files),), dtype=h5py.vlen_dtype(np.int16))
            for n, path in enumerate(files):
                audio[n] = to_int16(librosa.load(path, sr=_STORE_RATE)[0])

    return compare(
        "packing",
        scale,
        ("librosa.load + h5py, file by file", plain),
        {
            "weakaudio_data_prep.folder": lambda: folder.prepare(
                str(sounds), str(base / f"{next(number)}"), _STORE_RATE
            )
        },
        _TIMES * scale.audio_seconds,
    )


def _reading(sounds: Path, base: Path, scale: Scale) -> Comparison:
    folder.prepare(str(sounds), str(base / "corpus"), _FILE_RATE)
    loader = clip_loader(ClipDataset(Corpus(base / "corpus"), {}), scale.audio_seconds)
    files = find_audio(sounds)

    def plain() -> None:
        for start in range(0, len(files), scale.clips):
            clips = [sf.read(path, dtype="float32")[0] for path in files[start : start + scale.clips]]
            torch.from_numpy(np.stack(clips))

    return compare(
        "reading",
        scale,
        ("soundfile, file by file", plain),
        {"clip_loader on a store": lambda: list(loader)},
        _TIMES * scale.audio_seconds,
    )
