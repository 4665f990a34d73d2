"""Models as ONNX files, which run without torch (`weakaudio.deploy.onnx_tagger`)."""

from __future__ import annotations

import copy
import io
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from weakaudio import __version__
from weakaudio.deploy.onnx_file import beside, check_name, package, quietly, with_header
from weakaudio.deploy.onnx_tagger import FORMAT_VERSION, INPUTS, OUTPUTS, OnnxTagger, Scores
from weakaudio.deploy.product_logmel import ProductLogMel
from weakaudio.deploy.product_recurrence import without_loops
from weakaudio.errors import WeakAudioError
from weakaudio.networks.model import Model
from weakaudio.pretrained import model_checksum

Place = Literal["inside", "outside"]

OPSET = 17
TOLERANCE = 1e-4
"""between the probabilities of a model and those of its ONNX file"""
FRONT_END = "front_end"
"""name of the part of the graph that makes the log-mel: names of its nodes begin with it"""

_EMBEDDING_TOLERANCE = 1e-3  # of the largest value, or of 1
_CHECKED_SECONDS = (0.0, 0.013, 0.5, 1.7, 4.0, 31.0)  # the first: a single sample


@dataclass(frozen=True)
class Exported:
    """What `export_onnx` found of the file that it wrote."""

    size: int
    """bytes"""
    difference: float
    """the largest between probabilities of the file and of the model, over clips from one sample to 31 s"""


def export_onnx(model: Model, path: str | Path, front_end: Place = "inside") -> Exported:
    """Write a model, its network fused, to one ONNX file of opset 17, beside first and then renamed into place.

    Batch and length are dynamic, and all clips of a batch have the same length: padding is no part of the file.
    It takes `waveform` (B, N) at the model's rate, or, with the front end outside, `logmel` (B, T, F), and gives
    `segment_probs` (B, S, C), `clip_probs` (B, C) and `embeddings` (B, S, D). Its metadata hold, as JSON under
    "weakaudio", all that `OnnxTagger` needs: labels, sample rate, front end, geometry, metadata, and the checksum of
    the model and the version of this package that it was made by.

    The file is compared with the model before it is put in place, as tracing would fix what a network decides by the
    length of a clip.

    Parameters
    ----------
    model
        Is copied.
    front_end
        "inside": the file takes waveforms. "outside": log-mels, where the device has a way of its own to them.

    Raises
    ------
    CheckpointError
        A name that does not end in .onnx, or a file that cannot be written.
    WeakAudioError
        A network that does not export, or whose file computes something else; packages that are missing.
    """
    path = check_name(path)
    if front_end not in get_args(Place):
        raise WeakAudioError(f"front end {front_end!r}: it is inside or outside of the file")
    for name in ("onnx", "onnxruntime"):
        package(name)
    model = copy.deepcopy(model).cpu().eval()
    content = with_header(_traced(model, front_end), _header(model, front_end))
    with beside(path) as part:
        part.write_bytes(content)
        try:
            difference = _difference(part, model)
        except WeakAudioError as error:
            raise _refusal(model, str(error).removeprefix(f"{part}: ")) from error
    return Exported(path.stat().st_size, difference)


class _Graph(nn.Module):
    """What is traced: a batch of clips of one length, each of which fills its row."""

    def __init__(self, model: Model, front_end: Place) -> None:
        super().__init__()
        self.network = copy.deepcopy(model.network).fuse()
        self.front_end = ProductLogMel(model.logmel) if front_end == "inside" else nn.Identity()
        geometry = self.network.geometry
        # Below these, networks pad as a decision in Python, of which tracing would keep one side.
        self.least_frames = geometry.span if geometry.coverage == "paper" else 1
        self.rows_beside = geometry.span // geometry.hop - 1  # that a segment needs beyond one row for each hop

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of waveforms (B, N) or log-mels (B, T, F), probabilities (B, S, C) and (B, C) and embeddings (B, S, D)."""
        logmel = _at_least(self.front_end(batch), 1, self.least_frames)
        x, _ = self.network.forward_trunk(logmel)
        x = _at_least(x, 2, 1 + self.rows_beside)
        mask = torch.ones((x.shape[0], x.shape[2] - self.rows_beside), dtype=torch.bool)
        embeddings = self.network.forward_last(x, mask)
        logits = self.network.score_segments(embeddings, mask)
        return logits.sigmoid(), self.network.score_clips(embeddings, logits, mask), embeddings


def _at_least(x: Tensor, dim: int, size: int) -> Tensor:
    """x, with zeros up to `size` along a dimension; in a trace also for other sizes than that of its example."""
    if size <= 1:
        return x
    shape = list(x.shape)
    shape[dim] = size
    missing: Any = (torch.zeros((), dtype=torch.int64) + size - x.shape[dim]).clamp(min=0)
    return torch.cat([x, x.new_zeros(shape).narrow(dim, 0, missing)], dim)


def _traced(model: Model, front_end: Place) -> bytes:
    """The ONNX file of a model, without metadata.

    By tracing: `torch.export`, which torch's other exporter goes by, refuses to ask whether all clips of a batch fill
    their rows (`weakaudio.networks.layers.ragged`), and here they do.
    """
    graph = _Graph(model, front_end).eval()
    frames = 4 * model.network.geometry.span + 5
    fe = model.front_end
    shape = (2, frames * fe.hop_length + 3) if front_end == "inside" else (2, frames, fe.n_mels)
    name = INPUTS[front_end]
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), quietly(), without_loops():
        warnings.simplefilter("ignore")  # of what a trace fixes; `_difference` knows better
        try:
            torch.onnx.export(
                graph,
                (0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0)),),
                buffer,  # type: ignore[arg-type]
                opset_version=OPSET,
                dynamo=False,
                input_names=[name],
                output_names=list(OUTPUTS),
                dynamic_axes={
                    name: {0: "clips", 1: "samples" if front_end == "inside" else "frames"},
                    "segment_probs": {0: "clips", 1: "segments"},
                    "clip_probs": {0: "clips"},
                    "embeddings": {0: "clips", 1: "segments"},
                },
            )
        except Exception as error:  # what fails under tracing, it fails by many kinds of error
            raise _refusal(model, (str(error) or type(error).__name__).splitlines()[0]) from error
    return buffer.getvalue()


def _header(model: Model, front_end: Place) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "weakaudio": __version__,
        "sha256": model_checksum(model),
        "precision": "float32",
        "front_end_place": front_end,
        "front_end": model.front_end.to_dict(),
        "sample_rate": model.sample_rate,
        "geometry": asdict(model.network.geometry),
        "labels": model.labels,
        "metadata": model.metadata,
    }


@torch.inference_mode()
def _difference(path: Path, model: Model) -> float:
    """The largest of a file's probabilities from those of the model, at lengths that the file was not traced with.

    Raises
    ------
    WeakAudioError
        It is too large, results have other shapes, or embeddings differ.
    """
    tagger = OnnxTagger(path, threads=1)
    generator = torch.Generator().manual_seed(1)
    differences = []
    for n, seconds in enumerate(_CHECKED_SECONDS):
        samples = max(round(seconds * model.sample_rate), 1)
        waveform = 0.1 * torch.randn((1 + n % 2, samples), generator=generator)
        logmel = model.logmel(waveform)[0]
        output = model.network(logmel)
        expected = Scores(
            output.segment_logits.sigmoid().numpy(), output.clip_probs.numpy(), output.embeddings.numpy()
        )
        found = tagger.scores((waveform if tagger.front_end_place == "inside" else logmel).numpy())
        for name, own, value in zip(OUTPUTS, found, expected, strict=True):
            if own.shape != value.shape:
                raise WeakAudioError(f"its file gives {name} of shape {own.shape}, expected {value.shape}")
        segments, clips, embeddings = (np.abs(own - value).max() for own, value in zip(found, expected, strict=True))
        if not embeddings <= _EMBEDDING_TOLERANCE * max(1.0, np.abs(expected.embeddings).max()):
            raise WeakAudioError(f"embeddings of its file differ by {embeddings:.2g} from its own")
        differences += [segments, clips]
    largest = float(np.max(differences))
    if not largest <= TOLERANCE:
        raise WeakAudioError(
            f"probabilities of its file differ by {largest:.2g} from its own, more than {TOLERANCE:g}"
        )
    return largest


def _refusal(model: Model, reason: str) -> WeakAudioError:
    return WeakAudioError(f"a {type(model.network).__name__} cannot be exported: {reason}")
