"""Arrays and files become embeddings, always with times."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from weakaudio.audio.io import check_samples, read_audio, resample
from weakaudio.data.sampling import bucket
from weakaudio.errors import AudioError, WeakAudioError
from weakaudio.networks.model import Model
from weakaudio.pretrained import load_model, model_checksum

Layer = Literal["f1", "f2"]
Pooling = Literal["mean", "max"]
Audio = NDArray[np.float32]

_BATCH_SECONDS = 20.0  # of audio that go through the network at once: what stays in a processor's cache
_FILES_AHEAD = 64  # decoded together


@dataclass(frozen=True, eq=False)
class Embedding:
    """What the network says of one recording."""

    segments: NDArray[np.float32]
    """(S, D)"""
    times: NDArray[np.float64]
    """(S, 2) start and end of each segment, seconds from the start of the recording"""
    clip: NDArray[np.float32]
    """(D,) the segments pooled over time"""


class Embedder:
    """Embeddings of arrays and files, by any model.

    Parameters
    ----------
    model
        Is copied; the copy is made faster (`Network.fuse`).
    layer
        "f1": the embedding before the classifier, D = `n_features` of the network. "f2": the class
        probabilities, D = C. Both are representations of arXiv 1711.01369.
    pooling
        How segments become a clip: "mean" or "max" over time.
    device
        Where the network runs, e.g. "cpu" or "cuda".

    Raises
    ------
    WeakAudioError
        No such layer or pooling.
    """

    def __init__(self, model: Model, layer: Layer = "f1", pooling: Pooling = "mean", device: str = "cpu") -> None:
        for value, known, what in ((layer, Layer, "layer"), (pooling, Pooling, "pooling")):
            if value not in get_args(known):
                raise WeakAudioError(f"{what} {value!r}: unknown; there are {', '.join(get_args(known))}")
        self.layer, self.pooling = layer, pooling
        self.device = find_device(device)
        self.checksum = model_checksum(model)
        self.model = fused_copy(model, self.device)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        layer: Layer = "f1",
        pooling: Pooling = "mean",
        device: str = "cpu",
    ) -> Embedder:
        """An embedder by the name that `weakaudio models` lists, or by the path of a model file.

        Raises
        ------
        CheckpointError
            As `weakaudio.load_model`.
        """
        return cls(load_model(name_or_path), layer, pooling, device)

    @property
    def n_features(self) -> int:
        """D"""
        return self.model.network.n_features if self.layer == "f1" else len(self.model.labels)

    @property
    def sample_rate(self) -> int:
        """Rate in Hz to which recordings are brought."""
        return self.model.sample_rate

    def embed_array(self, audio: NDArray[np.floating], sample_rate: int) -> Embedding:
        """Embed mono audio of shape (N,), full scale at +-1, at any `sample_rate` in Hz.

        Raises
        ------
        AudioError
            Another shape, integers, no samples, NaN or infinite samples.
        """
        return self.embed_clips([resample(mono_floats(audio), sample_rate, self.sample_rate)])[0]

    def embed_file(self, path: str | Path) -> Embedding:
        """Embed a recording.

        Raises
        ------
        AudioError
            As `weakaudio.read_audio`.
        """
        return self.embed_clips([read_audio(path, self.sample_rate)[0]])[0]

    def embed_files(self, paths: Sequence[str | Path]) -> NDArray[np.float32]:
        """(n, D) clip embeddings of n recordings, in their order.

        Raises
        ------
        AudioError
            A recording that cannot be read; `embed_folder` goes on without it.
        """
        rows = [embedding.clip for embedding in self._stream(paths)]
        return np.stack(rows) if rows else np.zeros((0, self.n_features), dtype=np.float32)

    def embed_clips(self, clips: Sequence[Audio]) -> list[Embedding]:
        """Embed clips of shape (N,) that are at `sample_rate` already; no clip changes another's result."""
        lengths = [len(clip) for clip in clips]
        found: dict[int, Embedding] = {}
        for batch in bucket(lengths, int(_BATCH_SECONDS * self.sample_rate)):
            for n, segments in zip(batch, self._forward([clips[n] for n in batch]), strict=True):
                clip = segments.mean(0) if self.pooling == "mean" else segments.max(0)
                found[n] = Embedding(segments, self.model.segment_times(lengths[n]), clip)
        return [found[n] for n in range(len(clips))]

    @torch.inference_mode()
    def _forward(self, clips: list[Audio]) -> list[NDArray[np.float32]]:
        waveform = pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True)
        lengths = torch.tensor([len(clip) for clip in clips])
        frames, n_frames = self.model.logmel(waveform.to(self.device), lengths.to(self.device))
        values, mask = self.model.network.forward_features(frames, n_frames)
        if self.layer == "f2":
            values = self.model.network.forward_head(values).float().sigmoid()
        return [own[inside].cpu().numpy() for own, inside in zip(values.float(), mask, strict=True)]

    def _stream(self, paths: Sequence[str | Path]) -> Iterator[Embedding]:
        """Threads decode the next files (libsndfile and soxr let others run) while the network has these."""

        def read(path: str | Path) -> Audio:
            return read_audio(path, self.sample_rate)[0]

        groups = [paths[n : n + _FILES_AHEAD] for n in range(0, len(paths), _FILES_AHEAD)]
        with ThreadPoolExecutor() as pool:
            ahead = [pool.submit(read, path) for path in groups[0]] if groups else []
            for following in [*groups[1:], []]:
                clips = [job.result() for job in ahead]
                ahead = [pool.submit(read, path) for path in following]
                yield from self.embed_clips(clips)


def find_device(name: str) -> torch.device:
    """The device of that name, e.g. "cpu" or "cuda".

    Raises
    ------
    WeakAudioError
        This machine, or this build of torch, has none of that name.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise WeakAudioError(f"device {name!r}: not to be had here ({str(error).splitlines()[0]})") from error
    return device


def fused_copy(model: Model, device: torch.device) -> Model:
    """A copy for inference on a device, made faster (`Network.fuse`); the caller's model stays as it is."""
    model = copy.deepcopy(model).eval().to(device)
    model.network.fuse()
    return model


def mono_floats(audio: NDArray[np.floating]) -> Audio:
    """An array that a caller calls audio, as float32 of shape (N,).

    Raises
    ------
    AudioError
        Another shape, integers, no samples, NaN or infinite samples.
    """
    audio = np.asarray(audio)
    if audio.ndim != 1 or audio.dtype.kind != "f":
        raise AudioError(
            f"audio of shape {audio.shape} and type {audio.dtype}: expected mono floats of shape (N,), full "
            "scale at +-1 (average the channels; divide 16-bit integers by 32768)"
        )
    samples: Audio = audio.astype(np.float32, copy=False)
    check_samples(samples, "audio")
    return samples
