"""ONNX files in 8 bits, and what that costs."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from weakaudio.audio.frontend import FrontEnd, LogMel
from weakaudio.audio.io import find_audio, read_audio
from weakaudio.deploy.export import FRONT_END, Place, export_onnx
from weakaudio.deploy.onnx_file import beside, check_name, package, quietly, runtime_errors, with_header
from weakaudio.deploy.onnx_tagger import KEY, OnnxTagger
from weakaudio.errors import AudioError, CheckpointError, WeakAudioError
from weakaudio.networks.model import Model
from weakaudio.progress import progress

Audio = NDArray[np.float32]

_QUANTISED = ("Conv", "Add", "Relu", "MaxPool", "AveragePool")
_MOST_RECORDINGS = 128  # half for ranges, half to compare by
_SECONDS = 10.0  # of each


@dataclass(frozen=True)
class Comparison:
    """How two files of the same model differ."""

    largest: float
    """between clip probabilities of any class and clip"""
    mean: float
    """over classes and clips"""
    same_top: float
    """part of the clips for which both are surest of the same class"""
    n_clips: int
    sizes: tuple[int, int]
    """bytes"""

    def __str__(self) -> str:
        before, after = (size / 1e6 for size in self.sizes)
        return (
            f"{before:.1f} MB -> {after:.1f} MB; clip probabilities differ by {self.mean:.2g} on average and "
            f"{self.largest:.2g} at most; the surest class is the same in {self.same_top:.0%} of {self.n_clips} clips"
        )


def export_int8(model: Model, path: str | Path, folder: str | Path, front_end: Place = "inside") -> Comparison:
    """Write a model to an ONNX file in 8 bits, and compare it with its file in float32.

    Of up to 128 recordings below `folder`, one half gives the ranges of activations (`quantize`) and the other half
    tells the difference; the first 10 s of each count.

    Raises
    ------
    AudioError
        There is no such folder, or there are not two recordings in it that can be read.
    CheckpointError, WeakAudioError
        As `weakaudio.deploy.export.export_onnx`.

    Warns
    -----
    UserWarning
        A recording that cannot be read.
    """
    path = check_name(path)
    clips = _read_folder(folder, model.sample_rate)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch, "float32.onnx")
        export_onnx(model, whole, front_end)
        quantize(whole, path, clips[::2])
        return compare(whole, path, clips[1::2])


def quantize(path: str | Path, out: str | Path, clips: Sequence[Audio]) -> None:
    """Make an ONNX file whose convolutions, and sums and maxima between them, compute in 8 bits.

    Activations have the ranges that they have on the clips. Weights have a scale for each filter and 7 bits, by
    which no processor's sums overflow. Front end and heads stay in float32. `compare` tells what is lost.

    Parameters
    ----------
    path
        A file of `weakaudio.deploy.export.export_onnx`.
    out
        The file to write: .onnx.
    clips
        Some dozens like those to come, (N,) each at the model's rate.

    Raises
    ------
    CheckpointError
        `path` is no such file, or in 8 bits already, or `out` cannot be written.
    WeakAudioError
        No clips, packages that are missing, or ONNX Runtime cannot compute it so.
    """
    out = check_name(out)
    tagger = OnnxTagger(path)
    if tagger.precision != "float32":
        raise CheckpointError(f"{path}: is in {tagger.precision} already; export the model again")
    if not clips:
        raise WeakAudioError(f"{path}: no clips to find the ranges of its activations by; give some dozens")
    graph = package("onnx").load(str(path))
    header = json.loads({entry.key: entry.value for entry in graph.metadata_props}[KEY])
    nodes = graph.graph.node
    behind = 1 + max((n for n, node in enumerate(nodes) if node.op_type == "Conv"), default=-1)  # the heads
    kept = [node.name for n, node in enumerate(nodes) if n >= behind or node.name.startswith(f"/{FRONT_END}/")]
    with beside(out) as part:
        part.write_bytes(with_header(_quantised(tagger, kept, clips), {**header, "precision": "int8"}))
        OnnxTagger(part)


def _quantised(tagger: OnnxTagger, kept: list[str], clips: Sequence[Audio]) -> bytes:
    """The content of a file, in 8 bits but for the nodes of these names."""
    quantization = package("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as scratch, quietly(), runtime_errors(tagger.path):
        prepared, made = Path(scratch, "prepared.onnx"), Path(scratch, "int8.onnx")
        # Names of nodes must stay: so without its optimisation, which a session does in any case.
        quantization.quant_pre_process(
            str(tagger.path), str(prepared), skip_optimization=True, skip_symbolic_shape=True
        )
        quantization.quantize_static(
            str(prepared),
            str(made),
            _Reader(tagger, clips),
            op_types_to_quantize=list(_QUANTISED),
            nodes_to_exclude=kept,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return made.read_bytes()


class _Reader:
    """Clips as ONNX Runtime asks for them."""

    def __init__(self, tagger: OnnxTagger, clips: Sequence[Audio]) -> None:
        self._batches = ({tagger.input: batch} for batch in _inputs(tagger, clips, "finding ranges"))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


def compare(first: str | Path, second: str | Path, clips: Sequence[Audio]) -> Comparison:
    """Run two ONNX files on clips of (N,) samples at their rate.

    Raises
    ------
    CheckpointError
        No files of `weakaudio.deploy.export.export_onnx`, or of models of different classes or front ends.
    WeakAudioError
        No clips.
    """
    taggers = [OnnxTagger(first), OnnxTagger(second)]
    facts = [(tagger.labels, tagger.front_end) for tagger in taggers]
    if facts[0] != facts[1]:
        raise CheckpointError(
            f"{second}: its classes or front end are not those of {first}; these cannot be compared"
        )
    if not clips:
        raise WeakAudioError(f"{first} and {second}: no clips to compare them by")
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


def _inputs(tagger: OnnxTagger, clips: Sequence[Audio], what: str) -> Iterator[NDArray[np.float32]]:
    """Each clip of (N,) samples as the file takes it, in a batch of its own; `what` is done is shown."""
    logmel = None if tagger.front_end_place == "inside" else LogMel(FrontEnd(**tagger.front_end))
    for clip in progress(clips, len(clips), what):
        yield clip[None] if logmel is None else logmel(torch.from_numpy(clip)[None])[0].numpy()


def _read_folder(folder: str | Path, sample_rate: int) -> list[Audio]:
    """The beginnings of up to 128 recordings, at even distances in the order of their paths."""
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
            f"{folder}: {len(clips)} recordings that can be read; give some dozens, and two at least: one for the "
            "ranges of activations and one to compare by"
        )
    return clips
