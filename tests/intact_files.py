"""Intact files of every kind that the library reads, which the damaged ones are made from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import soundfile as sf
import torch

from weakaudio.audio.io import read_audio
from weakaudio.data.corpus import EVENTS, MANIFEST, STORE, write_labels
from weakaudio.data.labels import LabelSet
from weakaudio.data.manifest import Manifest, write_manifest
from weakaudio.data.store import StoreWriter
from weakaudio.files import write_table
from weakaudio.formats.embeddings import SUFFIXES, EmbeddingTable, write_embeddings
from weakaudio.networks import build_network
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import read_header, save_model

KINDS: dict[str, tuple[str, ...]] = {
    "WAV": ("audio/*.wav", "audio/*.w64", "audio/*.rf64"),
    "AIFF, AU": ("audio/*.aiff", "audio/*.au"),
    "FLAC": ("audio/*.flac",),
    "OGG": ("audio/*.ogg", "audio/*.opus"),
    "MP3": ("audio/*.mp3",),
    "clip store": ("corpus/store/*.h5",),
    "manifest": (f"corpus/{MANIFEST}",),
    "class list": ("corpus/labels.txt",),
    "strong truth": (f"corpus/{EVENTS}",),
    "embeddings HDF5": ("embeddings/*.h5",),
    "embeddings NPZ": ("embeddings/*.npz",),
    "embeddings Parquet": ("embeddings/*.parquet",),
    "checkpoint": ("models/*.safetensors",),
}
"""Kinds of files, and where `write_intact` puts them"""

_RATE = 16000  # Hz
_CLASSES = ["dog", "rain", "Säge"]
_SUBTYPES = ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610")
_MONO = frozenset({"GSM610"})  # without a second channel


def write_intact(folder: Path) -> None:
    """Write intact files of all kinds below a folder: a few of each kind, 1 to 30 KB each."""
    _write_audio(folder / "audio")
    _write_corpus(folder / "corpus", folder / "audio")
    _write_embeddings(folder / "embeddings")
    _write_models(folder / "models")


def find_intact(folder: Path) -> dict[str, list[str]]:
    """Paths of the files by kind, relative to the folder and sorted."""
    return {
        kind: sorted(path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern))
        for kind, patterns in KINDS.items()
    }


def _write_audio(folder: Path) -> None:
    """One second, with two channels where possible, and a mono one of each format."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(_RATE) / _RATE)
    stereo = np.stack([tone, 0.1 * rng.standard_normal(_RATE).clip(-3, 3)], axis=1)
    for subtype in _SUBTYPES:
        audio = tone if subtype in _MONO else stereo
        sf.write(folder / f"{subtype.lower()}.wav", audio[: _RATE // 4], _RATE, subtype=subtype)
    short = stereo[: _RATE // 4]
    sf.write(folder / "extensible.wav", short, _RATE, format="WAVEX")
    sf.write(folder / "pcm_16.w64", short, _RATE, format="W64")
    sf.write(folder / "pcm_16.rf64", short, _RATE, format="RF64")
    for name in ("pcm_16.aiff", "pcm_16.au"):
        sf.write(folder / name, short, _RATE)
    sf.write(folder / "float.aiff", short, _RATE, subtype="FLOAT")
    for name, audio in {"stereo": stereo, "mono": tone}.items():
        for suffix in ("flac", "ogg", "mp3"):
            sf.write(folder / f"{name}.{suffix}", audio, _RATE)
        sf.write(folder / f"{name}.opus", audio, _RATE, format="OGG", subtype="OPUS")


def _write_corpus(folder: Path, audio: Path) -> None:
    """Six clips in two shards, with manifest, class list and strong truth, and the clips as files."""
    names = [f"clips/{n}.wav" for n in range(6)]
    labels = [_CLASSES[: n % 4] for n in range(6)]
    tone, _ = read_audio(audio / "pcm_16.wav")
    (folder / "clips").mkdir(parents=True)
    with StoreWriter(folder / STORE, _RATE, shard_samples=3000) as writer:
        for n, (name, classes) in enumerate(zip(names, labels, strict=True)):
            clip = tone[: 600 * (n + 1)]
            sf.write(folder / name, clip, _RATE)
            writer.add(name, clip, classes)
    table = pd.DataFrame({"path": names, "labels": labels, "fold": [1, 2] * 3, "split": ["train", "test"] * 3})
    write_manifest(Manifest(table, folder), folder / MANIFEST)
    write_labels(LabelSet(_CLASSES), folder)
    truth = pd.DataFrame({"path": names[1:4], "label": "dog", "onset": 0.0125, "offset": [0.05, 0.0625, 0.075]})
    write_table(truth, folder / EVENTS)


def _write_embeddings(folder: Path) -> None:
    """A row a clip, and a row a segment, in each format."""
    rng = np.random.default_rng(0)
    paths = [f"sub/{n}.wav" for n in range(5)]
    metadata = {"model": "weakaudio-base", "checksum": "0" * 64, "command": "weakaudio embed sub -o e"}
    clip = np.repeat(np.arange(5), [1, 2, 3, 4, 5])
    start = np.concatenate([np.arange(n) * 0.5 for n in range(1, 6)])
    clips = EmbeddingTable(paths, rng.standard_normal((5, 16)).astype(np.float32), metadata)
    rows = rng.standard_normal((15, 16)).astype(np.float32)
    segments = EmbeddingTable(paths, rows, metadata, clip, start, start + 1.0)
    for suffix in SUFFIXES:
        write_embeddings(clips, folder / f"clips{suffix}")
        write_embeddings(segments, folder / f"segments{suffix}")


def _write_models(folder: Path) -> None:
    """A small network in full and in half precision, and as older releases wrote it, without a checksum."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network("weakcnn", n_classes=len(_CLASSES), n_mels=64, width=1 / 16)
    model = Model(network, "16k", _CLASSES, {"training": "none", "mAP": 0.1})
    save_model(model, folder / "whole.safetensors")
    save_model(model, folder / "half.safetensors", half=True)
    header = {name: value for name, value in read_header(folder / "whole.safetensors").items() if name != "sha256"}
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    safetensors.torch.save_file(tensors, folder / "unsealed.safetensors", {"weakaudio": json.dumps(header)})
