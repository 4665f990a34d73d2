"""The clip store: a folder of HDF5 shards with 16-bit audio of any length and its labels.

Shards are written atomically, so all shards in the folder are complete: a killed run loses only the clips of the open
shard, which the next run packs again. The audio of a shard never changes afterwards. The clips of each shard depend
only on the clips and their order, so an interrupted and resumed store is byte-equal to an uninterrupted one.

Datasets of a shard:
    audio    (samples of all clips,) int16, concatenated
    offsets  (clips + 1,) int64, start of each clip
    keys     (clips,) names, unique in the store
    labels   (clips,) class names of each clip, as JSON
    crc32    (clips,) uint32, of the samples of each clip
Attributes: format_version, sample_rate (Hz), complete, and head_crc32 of all of these except the audio, which shards
of earlier releases lack.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from weakaudio.audio import Waveform
from weakaudio.audio.io import from_int16, to_int16
from weakaudio.errors import StoreError
from weakaudio.files import FolderLock, atomic_write

FORMAT_VERSION = 1
_SHARD_NAME = "shard-{:05d}.h5"
_SHARD_GLOB = "shard-[0-9][0-9][0-9][0-9][0-9].h5"
_GROWTH = 2**22  # bytes, allocation step of a shard in memory
_SHARD_SAMPLES = 2**27  # 256 MiB of int16: at 32 kHz a killed run loses at most 70 minutes of audio, seconds of work


class StoreWriter:
    """Appends clips to a store; use it in a `with` block.

    If the block ends with an error, the open shard is discarded, as if the run had been killed; the next run packs
    its clips again.

    Parameters
    ----------
    folder
        Created if needed. Shards that it already has are kept; `keys` are the names of their clips.
    sample_rate
        Hz, of all clips.
    shard_samples
        Number of samples after which a shard is written.

    Raises
    ------
    StoreError
        The folder has a store of another rate or format, or another run writes to it.
    WriteError
        The folder cannot be written to.
    """

    def __init__(self, folder: str | Path, sample_rate: int, shard_samples: int = _SHARD_SAMPLES) -> None:
        self.folder = Path(folder)
        self.sample_rate = sample_rate
        self.shard_samples = shard_samples
        self._lock = FolderLock(self.folder)
        for leftover in self.folder.glob(".shard-*.part"):  # of a killed run
            leftover.unlink()
        shards = sorted(self.folder.glob(_SHARD_GLOB))
        self.keys: set[str] = set()
        if shards:
            store = ClipStore(self.folder)
            if store.sample_rate != sample_rate:
                raise StoreError(f"{folder}: a store at {store.sample_rate} Hz; {sample_rate} Hz cannot be added")
            self.keys = set(store.keys)
        self._next = int(shards[-1].stem.split("-")[1]) + 1 if shards else 0
        self._open = _Shard()

    def add(self, key: str, audio: NDArray[Any], labels: Sequence[str]) -> None:
        """Append one clip of shape (N,), N > 0, float32 or int16, at the store's rate.

        Raises
        ------
        StoreError
            The key exists already, or the clip has no samples.
        WriteError
            A shard cannot be written; complete shards are unchanged.
        """
        if key in self.keys:
            raise StoreError(f"{self.folder}: clip {key!r} exists already")
        if audio.ndim != 1 or not audio.size:
            raise StoreError(f"{self.folder}: clip {key!r} must have shape (N,), N > 0, but has {audio.shape}")
        samples = audio if audio.dtype == np.int16 else to_int16(np.asarray(audio, dtype=np.float32))
        self.keys.add(key)
        self._open.add(key, samples, list(labels))
        if self._open.n_samples >= self.shard_samples:
            self.flush()

    def relabel(self, labels: Mapping[str, Sequence[str]]) -> None:
        """Correct the labels of clips in complete shards, by key; shards without a difference are not rewritten."""
        for path in sorted(self.folder.glob(_SHARD_GLOB)):
            head = _read_head(path)
            wanted = [list(labels.get(key, names)) for key, names in zip(head.keys, head.labels, strict=True)]
            if wanted == head.labels:
                continue
            with h5py.File(path, "r") as file:
                samples = np.split(file["audio"][:], head.offsets[1:-1])
            self._write(_Shard(head.keys, samples, wanted, int(head.offsets[-1])), path, head.crc32)

    def flush(self) -> None:
        """Write the clips added so far as a complete shard.

        Raises
        ------
        WriteError
            It cannot be written; complete shards are unchanged.
        """
        if not self._open.keys:
            return
        shard, self._open = self._open, _Shard()
        self._write(shard, self.folder / _SHARD_NAME.format(self._next), shard.crc32())
        self._next += 1

    def _write(self, shard: _Shard, path: Path, crc32: NDArray[np.uint32]) -> None:
        image = shard.image(self.sample_rate, crc32)
        with atomic_write(path) as part, part.open("wb") as file:
            file.write(image)
            file.flush()
            os.fsync(file.fileno())

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self._lock.release()


class ClipStore:
    """Read-only view of a store: `len(store)`, `store.audio(n)`, `store.labels[n]`, `store.n_samples[n]`.

    Cheap to pickle and safe in loader workers: each process opens its own files on first use.

    Raises
    ------
    StoreError
        No store in the folder; a shard that is damaged, truncated, or of another format or rate; a repeated clip.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._paths = sorted(self.folder.glob(_SHARD_GLOB))
        if not self._paths:
            raise StoreError(f"{self.folder}: no clip store (no shard-*.h5 in it)")
        self.keys: list[str] = []
        self.labels: list[list[str]] = []
        rates, shards, starts, lengths = set(), [], [], []
        for number, path in enumerate(self._paths):
            head = _read_head(path)
            rates.add(head.sample_rate)
            self.keys += head.keys
            self.labels += head.labels
            shards.append(np.full(len(head.keys), number))
            starts.append(head.offsets[:-1])
            lengths.append(np.diff(head.offsets))
        if len(rates) > 1:
            raise StoreError(f"{self.folder}: shards of different rates: {sorted(rates)} Hz")
        if len(set(self.keys)) < len(self.keys):
            raise StoreError(f"{self.folder}: a clip is stored twice; shards of two runs were mixed")
        self.sample_rate: int = rates.pop()
        self.n_samples: NDArray[np.int64] = np.concatenate(lengths)
        self._shard = np.concatenate(shards)
        self._start = np.concatenate(starts)
        self._open: dict[int, h5py.Dataset] = {}  # audio of the shards opened so far
        self._pid = os.getpid()

    def __len__(self) -> int:
        return len(self.keys)

    def audio(self, n: int) -> Waveform:
        """(N,) float32 samples of clip n at `sample_rate`, full scale at +-1."""
        return from_int16(self._samples(n))

    def _samples(self, n: int) -> NDArray[np.int16]:
        start, length = int(self._start[n]), int(self.n_samples[n])
        samples: NDArray[np.int16] = self._shard_samples(int(self._shard[n]))[start : start + length]
        return samples

    def _shard_samples(self, number: int) -> h5py.Dataset:
        if self._pid != os.getpid():  # HDF5 handles must not cross a fork
            self._open, self._pid = {}, os.getpid()
        if number not in self._open:
            self._open[number] = h5py.File(self._paths[number], "r")["audio"]
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


class StoredClip(NamedTuple):
    """Result of checking a clip, or a shard that cannot be read, with its file name as key."""

    key: str
    labels: list[str]
    fault: str
    """empty if intact"""


def check_clips(folder: str | Path) -> Iterator[StoredClip]:
    """Compare the samples of all clips of a store with their checksums, one clip in memory at a time.

    Raises
    ------
    StoreError
        No store in the folder.
    """
    paths = sorted(Path(folder).glob(_SHARD_GLOB))
    if not paths:
        raise StoreError(f"{folder}: no clip store (no shard-*.h5 in it)")
    for path in paths:
        try:
            head = _read_head(path)
        except StoreError as error:
            yield StoredClip(path.name, [], str(error))
            continue
        with h5py.File(path, "r") as file:
            for n, (key, labels) in enumerate(zip(head.keys, head.labels, strict=True)):
                try:
                    samples = file["audio"][head.offsets[n] : head.offsets[n + 1]]
                    intact = zlib.crc32(samples.tobytes()) == head.crc32[n]
                    fault = "" if intact else "samples differ from what was packed"
                except OSError as error:
                    fault = f"samples cannot be read ({error})"
                yield StoredClip(key, labels, fault)


@dataclass
class _Shard:
    """Clips to be written together."""

    keys: list[str] = field(default_factory=list)
    samples: list[NDArray[np.int16]] = field(default_factory=list)
    labels: list[list[str]] = field(default_factory=list)
    n_samples: int = 0

    def add(self, key: str, samples: NDArray[np.int16], labels: list[str]) -> None:
        self.keys.append(key)
        self.samples.append(samples)
        self.labels.append(labels)
        self.n_samples += len(samples)

    def crc32(self) -> NDArray[np.uint32]:
        return np.array([zlib.crc32(s.tobytes()) for s in self.samples], dtype=np.uint32)

    def image(self, sample_rate: int, crc32: NDArray[np.uint32]) -> bytes:
        """Content of the shard's file, built in memory because HDF5 crashes if the disk fills up while it writes.

        Consumes the samples clip by clip, so that they are in memory only once.
        """
        labels = [json.dumps(names) for names in self.labels]
        offsets = np.cumsum([0] + [len(s) for s in self.samples], dtype=np.int64)
        with h5py.File("shard", "w", driver="core", backing_store=False, block_size=_GROWTH) as file:
            audio = file.create_dataset("audio", (self.n_samples,), np.int16)
            self.samples.reverse()
            for start, end in pairwise(offsets):
                audio[start:end] = self.samples.pop()
            file["offsets"] = offsets
            file["crc32"] = crc32
            _write_texts(file, "keys", self.keys)
            _write_texts(file, "labels", labels)
            head = _Head(sample_rate, self.keys, self.labels, offsets, crc32)
            file.attrs.update(
                format_version=FORMAT_VERSION, sample_rate=sample_rate, complete=True, head_crc32=head.checksum()
            )
            file.flush()
            image: bytes = file.id.get_file_image()
        return image


def _write_texts(file: h5py.File, name: str, texts: Sequence[str]) -> None:
    """Write fixed-length UTF-8: HDF5 2.0.0 can hang on damaged variable-length text."""
    encoded = [text.encode() for text in texts]
    file.create_dataset(name, data=encoded, dtype=h5py.string_dtype("utf-8", max(1, *map(len, encoded))))


@dataclass
class _Head:
    sample_rate: int
    keys: list[str]
    labels: list[list[str]]
    offsets: NDArray[np.int64]
    crc32: NDArray[np.uint32]

    def checksum(self) -> int:
        """CRC-32 of all fields."""
        tables = [self.sample_rate, self.keys, self.labels, self.offsets.tolist(), self.crc32.tolist()]
        return zlib.crc32(json.dumps(tables).encode())


def _read_head(path: Path) -> _Head:
    try:
        with h5py.File(path, "r") as file:
            version = file.attrs.get("format_version")
            if version != FORMAT_VERSION:
                raise StoreError(f"{path}: has format {version}, this release reads format {FORMAT_VERSION}")
            if not file.attrs.get("complete"):
                raise StoreError(f"{path}: incomplete; delete it and prepare the corpus again")
            head = _Head(
                int(file.attrs["sample_rate"]),
                list(file["keys"].asstr()[:]),
                [json.loads(names) for names in file["labels"].asstr()[:]],
                file["offsets"][:],
                file["crc32"][:],
            )
            consistent = len(head.offsets) == len(head.keys) + 1 and head.offsets[-1] == file["audio"].shape[0]
            if not consistent or file["audio"].dtype != np.int16:
                raise StoreError(f"{path}: its tables do not match its audio; delete it and prepare the corpus again")
            if file.attrs.get("head_crc32", head.checksum()) != head.checksum():
                raise StoreError(f"{path}: its tables were changed; delete it and prepare the corpus again")
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise StoreError(
            f"{path}: damaged or truncated ({error}); delete it and prepare the corpus again: other shards are kept"
        ) from error
    return head
