"""A folder of recordings becomes one file of embeddings; a run that is killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from weakaudio import __version__
from weakaudio.audio.io import audio_info, find_audio, read_audio
from weakaudio.data.manifest import write_table
from weakaudio.errors import AudioError, WeakAudioError
from weakaudio.inference.embedding import Audio, Embedder
from weakaudio.inference.embedding_file import EmbeddingTable, check_suffix, write_embeddings
from weakaudio.progress import progress

Level = Literal["clip", "segment"]
FAILURES = "failures.csv"

# Files are embedded in groups, and a group's result is on disk before the next begins: as much as this is lost
# when a run is killed. Groups do not depend on the run, so the result does not, either.
_GROUP_FILES = 64
_GROUP_SECONDS = 1200.0


@dataclass
class FolderSummary:
    """What `embed_folder` did."""

    out: Path
    n_clips: int
    n_segments: int
    failures: list[tuple[str, str]] = field(default_factory=list)
    """path and reason of each recording that was left out"""

    def __str__(self) -> str:
        text = f"{self.n_clips} clips, {self.n_segments} segments -> {self.out}"
        left_out = f"; {len(self.failures)} left out, see {self.out.parent / FAILURES}"
        return text + (left_out if self.failures else "")


def embed_folder(
    embedder: Embedder,
    folder: str | Path,
    out: str | Path,
    level: Level = "clip",
    model_name: str = "",
    command: str = "",
) -> FolderSummary:
    """Embed all audio below a folder, sorted by path, into one file; or a single recording.

    Recordings that cannot be read are left out and listed, with the reason, in failures.csv beside `out`.

    Parameters
    ----------
    embedder
        Decides model, layer and pooling.
    folder
        Searched with all folders below it; or the path of one recording.
    out
        .h5, .npz or .parquet.
    level
        "clip": one embedding a recording; "segment": one for each segment, with start and end in seconds.
    model_name, command
        Stand in the file's metadata.

    Raises
    ------
    AudioError
        No audio below the folder, or none that can be read.
    StoreError
        `out` has no known format.
    WeakAudioError
        No such level.
    """
    if level not in ("clip", "segment"):
        raise WeakAudioError(f"level {level!r}: unknown; there are clip, segment")
    folder, out = Path(folder), Path(out)
    check_suffix(out)
    names, files = find_recordings(folder)
    parts = _open_parts(out, _fingerprint(embedder, files, names, level))
    groups = _group(files)
    missing = [n for n in range(len(groups)) if not (parts / f"{n}.npz").is_file()]
    with ThreadPoolExecutor() as pool:
        for n in progress(missing, len(missing), f"embedding {len(files)} files in groups"):
            _embed_group(embedder, pool, [(names[k], files[k]) for k in groups[n]], parts / f"{n}.npz", level)

    metadata = {
        "model": model_name,
        "checksum": embedder.checksum,
        "layer": embedder.layer,
        "level": level,
        "pooling": embedder.pooling if level == "clip" else "none",
        "weakaudio": __version__,
        "command": command,
    }
    table, n_segments, failures = _join(parts, len(groups), metadata, level)
    write_failures(failures, out.parent)
    if not table.paths:
        shutil.rmtree(parts)
        raise AudioError(f"{folder}: none of its {len(files)} files can be read; see {out.parent / FAILURES}")
    write_embeddings(table, out)
    shutil.rmtree(parts)
    return FolderSummary(out, len(table.paths), n_segments, failures)


def find_recordings(source: Path) -> tuple[list[str], list[Path]]:
    """All audio below a folder, sorted by path; or, if `source` is a file, that one.

    Returns
    -------
    names, files
        Each recording's path relative to the folder, as it stands in tables, and where it is.

    Raises
    ------
    AudioError
        No such file or folder, or no audio below the folder.
    """
    if not source.exists():
        raise AudioError(f"{source}: no such file or folder")
    folder, files = (source.parent, [source]) if source.is_file() else (source, find_audio(source))
    # libsndfile cannot open a file whose name is not UTF-8: it will stand among the failures.
    return [printable(path.relative_to(folder).as_posix()) for path in files], files


def printable(text: str) -> str:
    """Text with a file's name in it, as a table can hold it: bytes that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def write_failures(failures: list[tuple[str, str]], folder: Path) -> None:
    """Write path and reason of recordings that were left out to failures.csv, or remove an earlier run's list."""
    if failures or _is_ours(folder / FAILURES):
        (folder / FAILURES).unlink(missing_ok=True)
    if failures:
        write_table(pd.DataFrame(failures, columns=["path", "reason"]), folder / FAILURES)


def _is_ours(path: Path) -> bool:
    """Whether an earlier run wrote this list; another file of the name is not ours to delete."""
    return path.is_file() and path.read_bytes().startswith(b"path,reason\n")


def _fingerprint(embedder: Embedder, files: list[Path], names: list[str], level: Level) -> str:
    """Of all that decides the result: parts of a run that differs in any of it are of no use."""
    digest = hashlib.sha256(
        json.dumps([embedder.checksum, embedder.layer, embedder.pooling, level, __version__]).encode()
    )
    for path, name in zip(files, names, strict=True):
        stat = path.stat()
        digest.update(json.dumps([name, stat.st_size, stat.st_mtime_ns]).encode())
    return digest.hexdigest()


def _open_parts(out: Path, fingerprint: str) -> Path:
    parts = out.with_name(f".{out.name}.parts")
    mark = parts / "fingerprint"
    if not mark.is_file() or mark.read_text() != fingerprint:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        mark.write_text(fingerprint)
    return parts


def _group(files: list[Path]) -> list[list[int]]:
    """Positions of the files in each group; a file whose length is not known counts as empty."""
    groups: list[list[int]] = []
    seconds = 0.0
    for n, path in enumerate(files):
        try:
            length = audio_info(path).seconds
        except AudioError:
            length = 0.0
        if not groups or len(groups[-1]) == _GROUP_FILES or seconds + length > _GROUP_SECONDS:
            groups.append([])
            seconds = 0.0
        groups[-1].append(n)
        seconds += length
    return groups


def _embed_group(
    embedder: Embedder, pool: ThreadPoolExecutor, files: list[tuple[str, Path]], part: Path, level: Level
) -> None:
    read = pool.map(lambda item: _read(item[1], embedder.sample_rate), files)
    clips: dict[str, Audio] = {}
    failures = []
    for (name, _), result in zip(files, read, strict=True):
        if isinstance(result, AudioError):
            failures.append((name, printable(str(result))))
        else:
            clips[name] = result
    found = embedder.embed_clips(list(clips.values()))
    rows = [one.segments if level == "segment" else one.clip[None] for one in found]
    beside = part.with_name(f".{part.name}")
    np.savez(
        beside,
        paths=np.array(list(clips), dtype=np.str_),
        embeddings=np.concatenate([np.zeros((0, embedder.n_features), np.float32), *rows]),
        times=np.concatenate([np.zeros((0, 2)), *[one.times for one in found]]),
        counts=np.array([len(one.segments) for one in found], dtype=np.int64),
        failures=np.array(failures, dtype=np.str_).reshape(-1, 2),
    )
    os.replace(beside, part)


def _read(path: Path, sample_rate: int) -> Audio | AudioError:
    try:
        return read_audio(path, sample_rate)[0]
    except AudioError as error:
        return error


def _join(
    parts: Path, n_parts: int, metadata: dict[str, str], level: Level
) -> tuple[EmbeddingTable, int, list[tuple[str, str]]]:
    columns: dict[str, list[np.ndarray]] = {}
    for n in range(n_parts):
        with np.load(parts / f"{n}.npz", allow_pickle=False) as part:
            for name in part.files:
                columns.setdefault(name, []).append(part[name])
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    failures = [(str(path), str(reason)) for path, reason in joined["failures"]]
    segments = {}
    if level == "segment":
        clip = np.repeat(np.arange(len(joined["counts"])), joined["counts"])
        segments = {"clip": clip, "start": joined["times"][:, 0], "end": joined["times"][:, 1]}
    table = EmbeddingTable(joined["paths"].tolist(), joined["embeddings"], metadata, **segments)
    return table, int(joined["counts"].sum()), failures
