"""Arrays and files become embeddings, always with times."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from weakaudio.audio.io import check_samples, read_audio, resample
from weakaudio.data.sampling import bucket
from weakaudio.errors import AudioError, WeakAudioError
from weakaudio.inference.lanes import share
from weakaudio.inference.parts import POOLINGS, Part, Pooled, join
from weakaudio.inference.windows import Audio, Window, cut_clip, cut_file
from weakaudio.networks.model import Model
from weakaudio.pretrained import load_model, model_checksum

LAYERS = ("f1", "f2")
DTYPES = ("float32", "bfloat16")
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
        "f1": the embedding before the classifier, as wide as `n_features` of the network. "f2": the class
        probabilities, C wide. Both are representations of arXiv 1711.01369; "f1+f2" is one after the other.
    pooling
        How segments become a clip: "mean", "max" or "std" (standard deviation) over time, or several, as "mean+max",
        one after the other. The mean of f2 is the network's own probability of the clip, which for some networks
        is no mean over segments; of a recording longer than a window (`weakaudio.inference.windows`), their mean.
    device
        Where the network runs: "cpu", "cuda", or "auto" for a GPU if there is one.
    dtype
        "float32", or "bfloat16" for half of the bits in the network, where the processor gains by it.

    Raises
    ------
    WeakAudioError
        No such layer, pooling, device or dtype.
    """

    def __init__(
        self,
        model: Model,
        layer: str = "f1",
        pooling: str = "mean",
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        if dtype not in DTYPES:
            raise WeakAudioError(f"dtype {dtype!r}: unknown; there are {', '.join(DTYPES)}")
        self.dtype = dtype
        self.layer, self.pooling = layer, pooling
        self._layers = split_names(layer, LAYERS, "layer")
        self._poolings = split_names(pooling, POOLINGS, "pooling")
        self.device = find_device(device)
        self.checksum = model_checksum(model)
        self.model = fused_copy(model, self.device)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        layer: str = "f1",
        pooling: str = "mean",
        device: str = "cpu",
        dtype: str = "float32",
    ) -> Embedder:
        """An embedder by the name that `weakaudio models` lists, or by the path of a model file.

        Raises
        ------
        CheckpointError
            As `weakaudio.load_model`.
        """
        return cls(load_model(name_or_path), layer, pooling, device, dtype)

    @property
    def n_features(self) -> int:
        """D of a clip."""
        return len(self.feature_names)

    @property
    def n_segment_features(self) -> int:
        """D of a segment."""
        return self.n_features // len(self._poolings)

    @property
    def feature_names(self) -> list[str]:
        """(D,) where each value of a clip's embedding is from, as "f1_0" or, of f2, the class; and the pooling, if
        there are several."""
        names = {"f1": [f"f1_{n}" for n in range(self.model.network.n_features)], "f2": self.model.labels}
        columns = [name for layer in self._layers for name in names[layer]]
        if len(self._poolings) == 1:
            return columns
        return [f"{name}_{pooling}" for pooling in self._poolings for name in columns]

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
        """Embed a recording of any length; only its embeddings grow with it.

        Raises
        ------
        AudioError
            As `weakaudio.read_audio`.
        """
        windows = cut_file(self.model, path)
        return self._whole([part for window in windows for part in self.embed_windows([window])])

    def embed_files(self, paths: Sequence[str | Path]) -> NDArray[np.float32]:
        """(n, D) clip embeddings of n recordings, in their order; for clips, as many of them are in memory at once.

        Raises
        ------
        AudioError
            A recording that cannot be read; `embed_folder` goes on without it.
        """
        rows = [embedding.clip for embedding in self._stream(paths)]
        return np.stack(rows) if rows else np.zeros((0, self.n_features), dtype=np.float32)

    def embed_clips(self, clips: Sequence[Audio]) -> list[Embedding]:
        """Embed clips of shape (N,) that are at `sample_rate` already; no clip changes another's result."""
        cuts = [cut_clip(self.model, clip) for clip in clips]
        parts = iter(self.embed_windows([window for windows in cuts for window in windows]))
        return [self._whole(list(islice(parts, len(windows)))) for windows in cuts]

    def embed_windows(self, windows: Sequence[Window]) -> list[Part]:
        """What the network says of parts of recordings (`weakaudio.inference.windows`), in their order."""
        batches: list[list[int]] = []
        for known in (False, True):  # a batch has the maximum of its recordings, or finds it
            places = [n for n, window in enumerate(windows) if (window.loudest is not None) == known]
            lengths = [len(windows[n].audio) for n in places]
            batches += [
                [places[k] for k in batch] for batch in bucket(lengths, int(_BATCH_SECONDS * self.sample_rate))
            ]
        chosen = [[windows[n] for n in batch] for batch in batches]
        parts = share(self._forward, chosen) if self.device.type == "cpu" else [self._forward(one) for one in chosen]
        found = dict(zip(chain.from_iterable(batches), chain.from_iterable(parts), strict=True))
        return [found[n] for n in range(len(windows))]

    def pool(self, summaries: Sequence[Pooled]) -> NDArray[np.float32]:
        """(D,) the clip embedding of a recording whose parts have these summaries."""
        whole = join(summaries)
        columns = {name: getattr(whole, name) for name in self._poolings}
        if "f2" in self._layers and "mean" in self._poolings:
            first = 0 if self._layers[0] == "f2" else self.model.network.n_features
            columns["mean"] = columns["mean"].copy()
            columns["mean"][first : first + len(whole.probs)] = whole.probs
        return np.concatenate(list(columns.values()))

    def _whole(self, parts: list[Part]) -> Embedding:
        segments, times = (np.concatenate([getattr(part, name) for part in parts]) for name in ("segments", "times"))
        return Embedding(segments, times, self.pool([Pooled.of(part) for part in parts]))

    @torch.inference_mode()
    def _forward(self, windows: list[Window]) -> list[Part]:
        network = self.model.network
        waveform, lengths = stack([window.audio for window in windows], self.device)
        maxima = [window.loudest for window in windows if window.loudest is not None]
        loudest = torch.tensor(maxima, device=self.device) if maxima else None
        frames, n_frames = self.model.logmel(waveform, lengths, loudest)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            embeddings, mask = network.forward_features(frames, n_frames)
        embeddings = embeddings.float()
        values, probs = {"f1": embeddings}, embeddings.new_empty((len(windows), 0))
        if "f2" in self._layers:
            logits = network.score_segments(embeddings, mask)
            core = mask.clone()
            for row, window in zip(core, windows, strict=True):
                row[: window.first + window.context_before] = False
                if window.last is not None:
                    row[window.last - window.context_after :] = False
            values["f2"], probs = logits.sigmoid(), network.score_clips(embeddings, logits, core)
        wide = torch.cat([values[layer] for layer in self._layers], 2)
        return [
            self._part(window, segments[inside].cpu().numpy(), of_part.cpu().numpy())
            for window, segments, inside, of_part in zip(windows, wide, mask, probs, strict=True)
        ]

    def _part(self, window: Window, segments: Audio, probs: Audio) -> Part:
        valid = slice(window.first, window.last)
        times = self.model.segment_times(len(window.audio))[valid] + window.start / self.sample_rate
        return Part(segments[valid], times, probs, window.context_before, window.context_after)

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


def split_names(value: str, known: Collection[str], what: str) -> tuple[str, ...]:
    """The names in "a+b".

    Raises
    ------
    WeakAudioError
        A name that is not known, or one that is there twice.
    """
    names = tuple(value.split("+"))
    for name in names:
        if name not in known:
            raise WeakAudioError(f"{what} {name!r}: unknown; there are {', '.join(known)}, or several joined by +")
    if len(set(names)) < len(names):
        raise WeakAudioError(f"{what} {value!r}: names one of them twice")
    return names


def stack(clips: Sequence[Audio], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips of shape (N,) to one zero-padded waveform (B, max N) and their lengths (B,), on a device."""
    waveform = pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True)
    return waveform.to(device), torch.tensor([len(clip) for clip in clips], device=device)


def find_device(name: str) -> torch.device:
    """The device of that name, e.g. "cpu" or "cuda"; "auto" is a GPU if there is one.

    Raises
    ------
    WeakAudioError
        This machine, or this build of torch, has none of that name.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
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
