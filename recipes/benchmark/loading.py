"""Batches of a training epoch: out of a clip store, against the same loader on WAV files."""

from __future__ import annotations

import tempfile
from collections import deque
from functools import partial
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from weakaudio_data_prep import folder

from recipes.benchmark.compare import Comparison, Job, Scale, compare, noise
from weakaudio.audio.io import from_int16, write_wav
from weakaudio.data.corpus import STORE, Corpus
from weakaudio.data.datamodule import Batch, ClipDataset, clip_loader
from weakaudio.data.store import ClipStore

_RATES = {"16 kHz": 16000, "44.1 kHz": 44100}
_WORKERS = {"no worker": 0, "1 worker": 1, "2 workers": 2}
_TIMES = 15  # as many clips as elsewhere: 20 minutes of audio


def measure(scale: Scale) -> list[Comparison]:
    """Whole epochs at two rates, with 0 to 2 loader processes. Files are in the page cache."""
    return [
        comparison
        for name, sample_rate in _RATES.items()
        for comparison in _at(f"loading {name}", sample_rate, scale)
    ]


def _at(what: str, sample_rate: int, scale: Scale) -> list[Comparison]:
    with tempfile.TemporaryDirectory() as name:
        corpus = write_corpus(Path(name), sample_rate, scale)
        found = []
        for processes, workers in _WORKERS.items():
            files, store = loaders(corpus, scale.audio_seconds, workers)
            reference = (f"WAV files, {processes}", partial(_exhaust, files))
            systems: dict[str, Job] = {f"clip store, {processes}": partial(_exhaust, store)}
            found.append(compare(what, scale, reference, systems, _TIMES * scale.audio_seconds))
        return found


class WavStore(ClipStore):
    """Has the clips of a corpus as its clip store has them, but reads them from their WAV files."""

    def __init__(self, corpus: Corpus) -> None:
        super().__init__(corpus.root / STORE)
        self._wavs = [corpus.root / key for key in self.keys]

    def audio(self, n: int) -> NDArray[np.float32]:
        return from_int16(sf.read(self._wavs[n], dtype="int16")[0])


def write_corpus(root: Path, sample_rate: int, scale: Scale) -> Path:
    """The folder of a corpus of 16-bit WAV files of noise, packed at their own rate."""
    for n in range(_TIMES * scale.clips):
        path = root / "sounds" / f"class{n % 2}" / f"{n:03d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, noise(n, scale, sample_rate), sample_rate)
    folder.prepare(str(root / "sounds"), str(root / "corpus"), sample_rate)
    return root / "corpus"


def loaders(root: Path, batch_seconds: float, workers: int) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    """Of the WAV files and of the store of a corpus; they differ in nothing else."""
    files, store = Corpus(root), Corpus(root)
    files.store = WavStore(files)
    one, other = (clip_loader(ClipDataset(corpus, {}), batch_seconds, workers, seed=0) for corpus in (files, store))
    return one, other


def _exhaust(loader: DataLoader[Batch]) -> None:
    deque(loader, maxlen=0)
