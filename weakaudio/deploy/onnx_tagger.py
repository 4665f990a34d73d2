"""Exported models on ONNX Runtime: scores and embeddings with times from audio, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weakaudio.audio.geometry import SegmentGeometry, frame_count
from weakaudio.audio.io import check_sample_rate, mono_floats, resample
from weakaudio.deploy.onnx_file import KEY, first_line, package, runtime_errors
from weakaudio.errors import CheckpointError, WeakAudioError

FORMAT_VERSION = 2
_METADATA = {1: "notes", 2: "metadata"}  # key of the free entry, in each format that this release reads
INPUTS = {"inside": "waveform", "outside": "logmel"}
"""Name of a file's input, by where its front end is."""


class OnnxOutput(NamedTuple):
    """Outputs of an ONNX file for a batch."""

    segment_probs: NDArray[np.float32]
    """(B, R, C)"""
    clip_probs: NDArray[np.float32]
    """(B, C)"""
    embeddings: NDArray[np.float32]
    """(B, S, D)"""


OUTPUTS = OnnxOutput._fields


class OnnxTagger:
    """Runs a model that `weakaudio export` wrote on the CPU.

    A recording passes through the network in one piece, so this is for clips of up to a few minutes.

    Parameters
    ----------
    path
        ONNX file.
    threads
        Threads of ONNX Runtime; None: one per core.

    Raises
    ------
    CheckpointError
        No such file, not an ONNX file, cut short, or not written by `weakaudio export`.
    WeakAudioError
        onnxruntime is not installed or lacks an operator, or less than one thread.
    """

    labels: list[str]
    """(C,) class names in the order of the probabilities"""
    sample_rate: int
    """Hz, to which audio is resampled"""
    checksum: str
    """SHA-256 of the exported model, the same as in embedding files"""
    precision: str
    """float32 or int8"""
    front_end: dict[str, Any]
    """all parameters of the log-mel"""
    front_end_place: str
    """inside: the file takes waveforms; outside: log-mels"""
    input: str
    """name of the file's input"""
    metadata: dict[str, Any]
    """the model's metadata: training data, metrics, licence"""

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        onnxruntime = package("onnxruntime")
        if threads is not None and threads < 1:
            raise WeakAudioError(f"{threads} threads: at least 1")
        self.path = Path(path)
        if not self.path.is_file():
            raise CheckpointError(f"{path}: no such file")
        options = session_options(threads)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its classes are private
            if type(error).__name__ == "NotImplemented":
                raise WeakAudioError(f"{path}: ONNX Runtime cannot run it ({first_line(error)})") from error
            raise CheckpointError(f"{path}: not an ONNX file, or cut short ({first_line(error)})") from error
        header = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        if header is None:
            raise CheckpointError(f"{path}: an ONNX file that `weakaudio export` did not write: it lacks metadata")
        self._read_header(header)

    def tag(self, audio: NDArray[np.floating], sample_rate: int) -> NDArray[np.float32]:
        """Tag mono audio of shape (N,), full scale at +-1, at any `sample_rate` in Hz: (C,) class probabilities.

        Raises
        ------
        AudioError
            Another shape, integers, no samples, NaN or infinite samples, or an invalid rate.
        WeakAudioError
            The file takes log-mels.
        """
        return self._run(audio, sample_rate)[0].clip_probs[0]

    def segments(
        self, audio: NDArray[np.floating], sample_rate: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """(R, C) probabilities and (R, 2) start and end in seconds of each step; arguments as for `tag`."""
        scores, n_samples = self._run(audio, sample_rate)
        return scores.segment_probs[0], self.score_times(n_samples)

    def embed(self, audio: NDArray[np.floating], sample_rate: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """(S, D) embeddings and (S, 2) start and end of each segment in seconds; arguments as for `tag`."""
        scores, n_samples = self._run(audio, sample_rate)
        return scores.embeddings[0], self.segment_times(n_samples)

    def scores(self, batch: NDArray[np.float32]) -> OnnxOutput:
        """Run the file on waveforms (B, N) at `sample_rate`, or on log-mels (B, T, F): clips of one length.

        Raises
        ------
        WeakAudioError
            Another shape or type, an empty batch, or an error of ONNX Runtime.
        """
        expected = 2 if self.front_end_place == "inside" else 3
        if batch.ndim != expected or batch.dtype != np.float32 or batch.size == 0:
            raise WeakAudioError(
                f"{self.path}: a {self.input} of shape {batch.shape} and type {batch.dtype}: expected float32 of "
                f"shape {'(clips, samples)' if expected == 2 else '(clips, frames, mels)'}"
            )
        with runtime_errors(f"{self.path}: a {self.input} of shape {batch.shape}"):
            return OnnxOutput(*self._session.run(list(OUTPUTS), {self.input: batch}))

    def segment_times(self, n_samples: int) -> NDArray[np.float64]:
        """(S, 2) start and end in seconds of the embeddings of a clip of `n_samples` samples at `sample_rate`."""
        return self._times(self._geometry, n_samples)

    def score_times(self, n_samples: int) -> NDArray[np.float64]:
        """(R, 2) start and end in seconds of the steps of `segments`, likewise."""
        return self._times(self._score_geometry, n_samples)

    def _times(self, geometry: SegmentGeometry, n_samples: int) -> NDArray[np.float64]:
        # As `FrontEnd.n_frames`, whose module imports torch.
        hop_length, n_dropped = self.front_end["hop_length"], self.front_end["pre_emphasis"] != 0
        n_frames = frame_count(max(n_samples - n_dropped, 0), hop_length)
        return geometry.times(n_frames, hop_length / self.sample_rate, n_samples / self.sample_rate)

    def _run(self, audio: NDArray[np.floating], sample_rate: int) -> tuple[OnnxOutput, int]:
        if self.front_end_place != "inside":
            raise WeakAudioError(
                f"{self.path}: takes log-mels, not audio: export the model with its front end inside, or give "
                "log-mels to `scores`"
            )
        check_sample_rate(sample_rate, "audio")
        samples = resample(mono_floats(audio), sample_rate, self.sample_rate)
        return self.scores(samples[None]), len(samples)

    def _read_header(self, header: str) -> None:
        try:
            facts = json.loads(header)
            version = facts["format_version"]
            if version not in list(_METADATA):
                raise CheckpointError(
                    f"{self.path}: written in format {version}, this release reads formats up to {FORMAT_VERSION}; "
                    "export the model again"
                )
            self.labels, self.sample_rate = facts["labels"], facts["sample_rate"]
            self.checksum, self.precision = facts["sha256"], facts["precision"]
            self.front_end, self.front_end_place = facts["front_end"], facts["front_end_place"]
            self.input = INPUTS[self.front_end_place]
            self._geometry, self.metadata = SegmentGeometry(**facts["geometry"]), facts[_METADATA[version]]
            # Files from before December 2026 have one geometry.
            self._score_geometry = SegmentGeometry(**facts.get("score_geometry", facts["geometry"]))
            names = [
                [tensor.name for tensor in side] for side in (self._session.get_inputs(), self._session.get_outputs())
            ]
            if names != [[self.input], list(OUTPUTS)]:
                raise ValueError(f"it takes and gives {names}")
            if not isinstance(self.labels, list) or not all(isinstance(label, str) for label in self.labels):
                raise ValueError("labels that are no list of names")
            if not self.sample_rate > 0:
                raise ValueError(f"a sample rate of {self.sample_rate} Hz")
            n_classes = self._session.get_outputs()[1].shape[1]
            if n_classes != len(self.labels):
                raise ValueError(f"{len(self.labels)} labels for {n_classes} classes")
            self.segment_times(1)
            self.score_times(1)
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:
            raise CheckpointError(
                f"{self.path}: its metadata are damaged ({error!r}); export the model again"
            ) from error


def session_options(threads: int | None) -> Any:
    """An `onnxruntime.SessionOptions`, as all files are run here; threads None: one per core."""
    options = package("onnxruntime").SessionOptions()
    options.intra_op_num_threads = threads or 0
    # Threads that spin while they wait occupy cores that the caller needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors are raised
    return options
