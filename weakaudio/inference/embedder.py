"""Embed arrays and files; every embedding comes with times."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from weakaudio.audio import Waveform
from weakaudio.audio.io import mono_floats, read_audio, resample
from weakaudio.data.sampling import bucket
from weakaudio.errors import WeakAudioError
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.inference.parts import TIME_POOLINGS, Part, Pooled, join
from weakaudio.inference.windows import Window, cut_clip, cut_file
from weakaudio.networks.contract import Features
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import find_device, find_dtype, fused_copy, share, stack
from weakaudio.pretrained.checkpoint import model_checksum
from weakaudio.pretrained.registry import load_model

LAYERS = ("f1", "f2")
_BATCH_SECONDS = 20.0  # of audio in a batch: what fits the cache of a CPU
_FILES_AHEAD = 64  # decoded together


@dataclass(frozen=True, eq=False)
class Embedding:
    """Embeddings of one recording."""

    segments: NDArray[np.float32]
    """(S, D)"""
    times: NDArray[np.float64]
    """(S, 2) start and end of each segment, seconds from the start of the recording"""
    clip: NDArray[np.float32]
    """(D,) the segments pooled over time"""


class Embedder:
    """Embeds arrays and files, with any model.

    Parameters
    ----------
    model
        Is copied; the copy is made faster (`Network.fuse`).
    layer
        "f1": the embedding before the classifier, as wide as `n_features` of the network. "f2": the class
        probabilities, C wide. Both are representations of arXiv 1711.01369; "f1+f2" concatenates them.
    pooling
        Pooling of segments to a clip over time: "mean", "max" or "std" (standard deviation), or several concatenated,
        as "mean+max". The mean of f2 is the network's own clip probability, which for some networks is no mean over
        segments; for recordings longer than a window (`weakaudio.inference.windows`), the mean over windows.
    device
        "cpu", "cuda", or "auto" for a GPU if there is one.
    dtype
        Precision of the network: "float32", "bfloat16", or "auto" for bfloat16 where it is native (a GPU that has it,
        a CPU with AVX512_BF16 or AMX). The attribute `dtype` holds the choice.

    Raises
    ------
    WeakAudioError
        Unknown layer, pooling or dtype, or a device that is not available.
    """

    def __init__(
        self,
        model: Model,
        layer: str = "f1",
        pooling: str = "mean",
        device: str = "cpu",
        dtype: str = "auto",
    ) -> None:
        self.layer, self.pooling = layer, pooling
        self._layers = split_names(layer, LAYERS, "layer")
        self._poolings = split_names(pooling, TIME_POOLINGS, "pooling")
        self.device = find_device(device)
        self.dtype = find_dtype(dtype, self.device)
        self.checksum = model_checksum(model)
        self.model = fused_copy(model, self.device)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = DEFAULT_MODEL,
        layer: str = "f1",
        pooling: str = "mean",
        device: str = "cpu",
        dtype: str = "auto",
    ) -> Embedder:
        """Make an embedder from a name that `weakaudio models` lists, or from the path of a model file.

        Raises
        ------
        CheckpointError
            As `weakaudio.load_model`.
        """
        return cls(load_model(name_or_path), layer, pooling, device, dtype)

    @property
    def n_features(self) -> int:
        """Width D of a clip embedding."""
        return len(self.feature_names)

    @property
    def n_segment_features(self) -> int:
        """Width D of a segment embedding."""
        return self.n_features // len(self._poolings)

    @property
    def feature_names(self) -> list[str]:
        """(D,) origin of each value of a clip embedding: "f1_0", ... or the class; and the pooling, if several."""
        names = {"f1": [f"f1_{n}" for n in range(self.model.network.n_features)], "f2": self.model.labels}
        columns = [name for layer in self._layers for name in names[layer]]
        if len(self._poolings) == 1:
            return columns
        return [f"{name}_{pooling}" for pooling in self._poolings for name in columns]

    @property
    def sample_rate(self) -> int:
        """Hz, to which recordings are resampled."""
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
        """Embed n clips from files to (n, D) clip embeddings, in their order; dozens are in memory at once.

        Raises
        ------
        AudioError
            A recording that cannot be read; `embed_folder` lists it and continues.
        """
        rows = [embedding.clip for embedding in self._stream(paths)]
        return np.stack(rows) if rows else np.zeros((0, self.n_features), dtype=np.float32)

    def embed_clips(self, clips: Sequence[Waveform]) -> list[Embedding]:
        """Embed clips of shape (N,) at `sample_rate`; the result of a clip does not depend on the others."""
        cuts = [cut_clip(self.model, clip) for clip in clips]
        parts = iter(self.embed_windows([window for windows in cuts for window in windows]))
        return [self._whole(list(islice(parts, len(windows)))) for windows in cuts]

    def embed_windows(self, windows: Sequence[Window]) -> list[Part]:
        """Embed windows of recordings (`weakaudio.inference.windows`), in their order."""
        return self._batched(self._embed, windows)

    def score_windows(self, windows: Sequence[Window]) -> list[Part]:
        """Class probabilities of windows in the steps of the network's scores, which may be finer than segments."""
        return self._batched(self._score, windows)

    def _batched(self, job: Callable[[list[Window]], list[Part]], windows: Sequence[Window]) -> list[Part]:
        batches: list[list[int]] = []
        for known in (False, True):  # windows with a known maximum, and clips that bring their own
            places = [n for n, window in enumerate(windows) if (window.loudest is not None) == known]
            lengths = [len(windows[n].audio) for n in places]
            batches += [
                [places[k] for k in batch] for batch in bucket(lengths, int(_BATCH_SECONDS * self.sample_rate))
            ]
        chosen = [[windows[n] for n in batch] for batch in batches]
        parts = share(job, chosen) if self.device.type == "cpu" else [job(one) for one in chosen]
        found = dict(zip(chain.from_iterable(batches), chain.from_iterable(parts), strict=True))
        return [found[n] for n in range(len(windows))]

    def pool(self, summaries: Sequence[Pooled]) -> NDArray[np.float32]:
        """Clip embedding (D,) of a recording, from the summaries of its parts."""
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
    def _embed(self, windows: list[Window]) -> list[Part]:
        network, features = self.model.network, self._extract(windows)
        embeddings, mask = features.embeddings, features.mask
        values, probs = {"f1": embeddings}, embeddings.new_empty((len(windows), 0))
        if "f2" in self._layers:
            logits = network.score_segments(embeddings, mask)
            values["f2"], probs = logits.sigmoid(), network.score_clips(embeddings, logits, _core(windows, mask))
        wide = torch.cat([values[layer] for layer in self._layers], 2)
        return [
            self._part(window, segments[inside].cpu().numpy(), of_part.cpu().numpy())
            for window, segments, inside, of_part in zip(windows, wide, mask, probs, strict=True)
        ]

    @torch.inference_mode()
    def _score(self, windows: list[Window]) -> list[Part]:
        logits, mask = self.model.network.score_steps(self._extract(windows))
        return [
            self._part(window, steps[inside].cpu().numpy(), np.zeros(0, np.float32), scores=True)
            for window, steps, inside in zip(windows, logits.sigmoid(), mask, strict=True)
        ]

    def _extract(self, windows: list[Window]) -> Features:
        """Features in float32; without the maps, unless the network scores in finer steps."""
        network = self.model.network
        waveform, lengths = stack([window.audio for window in windows], self.device)
        maxima = [window.loudest for window in windows if window.loudest is not None]
        loudest = torch.tensor(maxima, device=self.device) if maxima else None
        frames, n_frames = self.model.logmel(waveform, lengths, loudest)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            features = network.extract(frames, n_frames)
        finer = network.score_geometry != network.geometry
        maps = [x.float() for x in features.maps] if finer else []
        return features._replace(maps=maps, embeddings=features.embeddings.float())

    def _part(self, window: Window, values: Waveform, probs: Waveform, scores: bool = False) -> Part:
        network, n_samples = self.model.network, len(window.audio)
        times = self.model.score_times(n_samples) if scores else self.model.segment_times(n_samples)
        ratio = network.geometry.hop // network.score_geometry.hop if scores else 1

        def at(segment: int) -> int:
            """The first step of a segment."""
            return max(segment * ratio - ratio // 2, 0)

        valid = slice(at(window.first), None if window.last is None else at(window.last))
        before, after = window.context_before * ratio, window.context_after * ratio
        return Part(values[valid], times[valid] + window.start / self.sample_rate, probs, before, after)

    def _stream(self, paths: Sequence[str | Path]) -> Iterator[Embedding]:
        """Embed files while threads decode the next ones (libsndfile and soxr release the GIL)."""

        def read(path: str | Path) -> Waveform:
            return read_audio(path, self.sample_rate)[0]

        groups = [paths[n : n + _FILES_AHEAD] for n in range(0, len(paths), _FILES_AHEAD)]
        with ThreadPoolExecutor() as pool:
            ahead = [pool.submit(read, path) for path in groups[0]] if groups else []
            for following in [*groups[1:], []]:
                clips = [job.result() for job in ahead]
                ahead = [pool.submit(read, path) for path in following]
                yield from self.embed_clips(clips)


def _core(windows: Sequence[Window], mask: torch.Tensor) -> torch.Tensor:
    """(B, S) bool: True where a segment belongs to the core of its window."""
    core = mask.clone()
    for row, window in zip(core, windows, strict=True):
        row[: window.first + window.context_before] = False
        if window.last is not None:
            row[window.last - window.context_after :] = False
    return core


def split_names(value: str, known: Collection[str], what: str) -> tuple[str, ...]:
    """Split the names in "a+b".

    Raises
    ------
    WeakAudioError
        An unknown name, or one that occurs twice.
    """
    names = tuple(value.split("+"))
    for name in names:
        if name not in known:
            raise WeakAudioError(f"{what} {name!r}: unknown; there are {', '.join(known)}, or several joined by +")
    if len(set(names)) < len(names):
        raise WeakAudioError(f"{what} {value!r}: names one twice")
    return names
