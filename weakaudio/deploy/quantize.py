"""Quantization of ONNX files to 8 bits, and the difference that it makes."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray

from weakaudio.audio.frontend import FrontEnd, LogMel
from weakaudio.audio.io import find_audio, read_audio
from weakaudio.deploy.export import FRONT_END, FrontEndPlace, export_onnx
from weakaudio.deploy.onnx_file import KEY, check_name, package, quietly, runtime_errors, with_header
from weakaudio.deploy.onnx_tagger import OnnxTagger
from weakaudio.errors import AudioError, CheckpointError, WeakAudioError
from weakaudio.files import atomic_write
from weakaudio.networks.model import Model
from weakaudio.progress import progress

_QUANTIZED = ("Conv", "Add", "Relu", "MaxPool", "AveragePool")
_MOST_RECORDINGS = 128  # half to calibrate, half to compare
_SECONDS = 10.0  # of each


@dataclass(frozen=True)
class Comparison:
    """Difference between two files of the same model."""

    largest: float
    """greatest difference between clip probabilities"""
    mean: float
    """mean difference over classes and clips"""
    same_top: float
    """fraction of clips with the same class of the highest probability"""
    n_clips: int
    sizes: tuple[int, int]
    """bytes"""

    def __str__(self) -> str:
        before, after = (size / 1e6 for size in self.sizes)
        return (
            f"{before:.1f} MB -> {after:.1f} MB; clip probabilities differ by {self.mean:.2g} on average and "
            f"{self.largest:.2g} at most; the top class is the same in {self.same_top:.0%} of {self.n_clips} clips"
        )


def export_int8(
    model: Model, path: str | Path, folder: str | Path, front_end: FrontEndPlace = "inside"
) -> Comparison:
    """Write a model to an ONNX file in 8 bits, and compare it with a file in float32.

    Of up to 128 recordings below `folder`, one half calibrates the ranges of activations (`quantize`), and the other
    half serves to compare; the first 10 s of each are used.

    Raises
    ------
    AudioError
        No such folder, or fewer than two readable recordings in it.
    CheckpointError, WeakAudioError
        As `weakaudio.deploy.export.export_onnx`.

    Warns
    -----
    UserWarning
        A recording cannot be read.
    """
    path = check_name(path)
    clips = _read_folder(folder, model.sample_rate)
    with tempfile.TemporaryDirectory() as scratch:
        float32 = Path(scratch, "float32.onnx")
        export_onnx(model, float32, front_end)
        quantize(float32, path, clips[::2])
        return compare(float32, path, clips[1::2])


def quantize(path: str | Path, out: str | Path, clips: Sequence[NDArray[np.float32]]) -> None:
    """Write an ONNX file whose convolutions, and sums and maxima between them, compute in 8 bits.

    The ranges of activations are calibrated on the clips. Weights have a scale per filter, and 7 bits, so that sums
    overflow on no processor. Front end and heads stay in float32. `compare` measures the difference.

    Parameters
    ----------
    path
        A file of `weakaudio.deploy.export.export_onnx`.
    out
        The file to write: .onnx.
    clips
        A few dozen typical ones, (N,) each at the model's rate.

    Raises
    ------
    CheckpointError
        `path` is no such file, or is in 8 bits already.
    WeakAudioError
        No clips, a package is missing, ONNX Runtime cannot quantize the file, or `out` cannot be written.
    """
    out = check_name(out)
    tagger = OnnxTagger(path)
    if tagger.precision != "float32":
        raise CheckpointError(f"{path}: is in {tagger.precision} already; export the model again")
    if not clips:
        raise WeakAudioError(f"{path}: no clips to calibrate the ranges of activations; give a few dozen")
    graph = package("onnx").load(str(path))
    header = json.loads({entry.key: entry.value for entry in graph.metadata_props}[KEY])
    nodes = graph.graph.node
    after = 1 + max((n for n, node in enumerate(nodes) if node.op_type == "Conv"), default=-1)  # the heads
    kept = [node.name for n, node in enumerate(nodes) if n >= after or node.name.startswith(f"/{FRONT_END}/")]
    with atomic_write(out) as part:
        part.write_bytes(with_header(_quantized(tagger, kept, clips), {**header, "precision": "int8"}))
        OnnxTagger(part)


def _quantized(tagger: OnnxTagger, kept: list[str], clips: Sequence[NDArray[np.float32]]) -> bytes:
    """The content of a file in 8 bits, except for the nodes of these names."""
    quantization = package("onnxruntime.quantization")
    batches = ({tagger.input: batch} for batch in _inputs(tagger, clips, "calibrating"))
    with tempfile.TemporaryDirectory() as scratch, quietly(), runtime_errors(tagger.path):
        prepared, made = Path(scratch, "prepared.onnx"), Path(scratch, "int8.onnx")
        # Without optimisation, which would rename nodes, and which a session does in any case.
        quantization.quant_pre_process(
            str(tagger.path), str(prepared), skip_optimization=True, skip_symbolic_shape=True
        )
        quantization.quantize_static(
            str(prepared),
            str(made),
            SimpleNamespace(get_next=lambda: next(batches, None)),
            op_types_to_quantize=list(_QUANTIZED),
            nodes_to_exclude=kept,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return made.read_bytes()


def compare(first: str | Path, second: str | Path, clips: Sequence[NDArray[np.float32]]) -> Comparison:
    """Compare two ONNX files of a model on clips of (N,) samples at their rate.

    Raises
    ------
    CheckpointError
        Not files of `weakaudio.deploy.export.export_onnx`, or models of different classes or front ends.
    WeakAudioError
        No clips.
    """
    taggers = [OnnxTagger(first), OnnxTagger(second)]
    about = [(tagger.labels, tagger.front_end) for tagger in taggers]
    if about[0] != about[1]:
        raise CheckpointError(
            f"{second}: its classes or front end are not those of {first}, so they cannot be compared"
        )
    if not clips:
        raise WeakAudioError(f"{first} and {second}: no clips to compare them on")
    a, b = (
        np.concatenate([tagger.scores(batch).clip_probs for batch in _inputs(tagger, clips, "comparing")])
        for tagger in taggers
    )
    difference = np.abs(a - b)
    return Comparison(
        float(difference.max()),
        float(difference.mean()),
        float((a.argmax(1) == b.argmax(1)).mean()),
        len(clips),
        (Path(first).stat().st_size, Path(second).stat().st_size),
    )


def _inputs(tagger: OnnxTagger, clips: Sequence[NDArray[np.float32]], what: str) -> Iterator[NDArray[np.float32]]:
    """Each clip of (N,) samples as a batch in the form that the file takes; `what` names the progress bar."""
    logmel = None if tagger.front_end_place == "inside" else LogMel(FrontEnd(**tagger.front_end))
    for clip in progress(clips, len(clips), what):
        yield clip[None] if logmel is None else logmel(torch.from_numpy(clip)[None])[0].numpy()


def _read_folder(folder: str | Path, sample_rate: int) -> list[NDArray[np.float32]]:
    """The beginnings of up to 128 recordings, evenly spaced in the order of their paths."""
    found = find_audio(folder)
    chosen = found[:: -(-len(found) // _MOST_RECORDINGS)]
    clips = []
    for path in progress(chosen, len(chosen), "reading"):
        try:
            clips.append(read_audio(path, sample_rate, seconds=_SECONDS)[0])
        except AudioError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
    if len(clips) < 2:
        raise AudioError(
            f"{folder}: {len(clips)} readable recordings; give a few dozen, and at least two: one to calibrate the "
            "ranges of activations and one to compare"
        )
    return clips
