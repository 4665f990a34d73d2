"""Pareto front: how fast networks are from waveform to clip probabilities, in one run, and how good off the shelf.

    python -m recipes.latency.pareto --data ../shared/data --mn04 MODEL --yamnet yamnet.tflite

On an idle machine, from the project's folder. Speed on noise, in rounds of one turn per system with a rest before
each turn: idle threads of one runtime would otherwise spin into the next turn. Memory is allocated and given back as
the C library does by itself, which is expensive for large tensors; `--keep-memory` measures without that. Quality on
ESC-50: frozen embeddings (F1, mean), linear SVM, five folds. In int8, the ranges of activations are from recordings
of `collected/`, none of which is in ESC-50.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from recipes import esc50
from recipes.benchmark.compare import compare
from recipes.command import command, over_folds, run_name
from recipes.latency import published
from recipes.results import Row
from weakaudio import memory
from weakaudio.audio.io import read_audio
from weakaudio.data.manifest import Manifest
from weakaudio.deploy.backends import fastest
from weakaudio.deploy.benchmark import Job, PathTimes, noise, time_path, use_threads
from weakaudio.deploy.onnx_tagger import OnnxTagger
from weakaudio.deploy.quantize import export_int8
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import model_checksum
from weakaudio.pretrained.registry import load_model
from weakaudio.transfer.estimators import EmbeddingTransformer

BATCHES = (1, 8)
MN04 = "efficientat-mn04"
REFERENCE, OUR_FRONT_END = f"{MN04}, as published", f"{MN04}, our front end"
SHIPPED = ("weakaudio-small", "weakaudio-base", "weakaudio-fast")
ROUNDS = 7
_REST = 0.05  # seconds before a turn


class System(NamedTuple):
    """A line of the table."""

    name: str
    sample_rate: int
    run: published.Run
    note: str | None = None
    """which backend is the fastest"""


def in_int8(model: Model, path: Path, recordings: Path) -> OnnxTagger:
    """A model in int8 on ONNX Runtime, behind the log-mel of torch; exported unless that file exists."""
    if not path.is_file() or OnnxTagger(path).checksum != model_checksum(model):
        export_int8(model, path, recordings, "outside")
    return OnnxTagger(path, torch.get_num_threads())


def by_tagger(tagger: OnnxTagger, model: Model) -> published.Run:
    """An exported model behind the log-mel of the model that it was made of."""

    @torch.inference_mode()
    def run(waveform: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(tagger.scores(model.logmel(waveform)[0].numpy()).clip_probs)

    return run


def systems(
    models: dict[str, Model], taggers: dict[str, OnnxTagger], yamnet: Path | None, seconds: float, clips: int
) -> Iterator[System]:
    """All systems, the reference first; our models by the backend that is fastest for this batch, and in int8."""

    def by_fastest(name: str, model: Model) -> System:
        found = fastest(model, seconds, clips)
        note = f"{name}, batch {clips}: {found.name}"
        return System(f"{name}, fastest backend", model.sample_rate, found.run, note)

    mn04 = models[MN04]
    yield System(REFERENCE, mn04.sample_rate, published.efficientat(mn04))
    plain = published.clips_alone(lambda waveform: mn04.logmel(waveform)[0], mn04.network)
    yield System(OUR_FRONT_END, mn04.sample_rate, plain)
    for name, model in models.items():
        yield by_fastest(name, model)
    for name, tagger in taggers.items():
        yield System(f"{name}, int8", models[name].sample_rate, by_tagger(tagger, models[name]))
    yield System("N_S as released (44.1 kHz)", 44100, published.plain_ns())
    yield by_fastest("N_S (44.1 kHz)", load_model("untrained-44k"))
    if yamnet is not None:
        yield System("YAMNet, TFLite", 16000, published.yamnet(yamnet, torch.get_num_threads()))


def speeds(what: str, found: Sequence[System], seconds: float, clips: int) -> Iterator[Row]:
    """Latency of single clips or speed of a batch, and the ratio to the reference."""
    jobs: dict[str, Job] = {one.name: partial(one.run, noise(one.sample_rate, seconds, clips)) for one in found}
    notes = {one.name: one.note for one in found}
    for name, taken, ratio in compare(jobs, ROUNDS, before=lambda: time.sleep(_REST)):
        row = {"what": what, "system": name, "data": _about(seconds), "note": notes[name]}
        if clips == 1:
            yield {**row, "metric": f"ms for {seconds:g} s", "value": 1000 * taken}
        else:
            yield {**row, "metric": f"times real time, batch {clips}", "value": clips * seconds / taken}
        if ratio:
            yield {**row, "metric": f"times mn04 as published, batch {clips}", **ratio}


def _about(seconds: float) -> str:
    threads = torch.get_num_threads()
    return f"clips of {seconds:g} s of noise, from waveform, {threads} threads; ESC-50 at 16 kHz"


def stages(name: str, times: PathTimes) -> Iterator[Row]:
    """Milliseconds per clip of each stage of a model's path."""
    found = {"decode": times.decode, "resample": times.resample, "log-mel": times.logmel, "network": times.network}
    data = f"clips of {times.seconds:g} s of noise, network fused, {torch.get_num_threads()} threads"
    for stage, seconds in found.items():
        row = {"what": f"path, batch {times.batch}", "system": name, "data": data}
        yield {**row, "metric": f"{stage} (ms for {times.seconds:g} s)", "value": 1000 * seconds}


@torch.inference_mode()
def embed(tagger: OnnxTagger, model: Model, clips: Manifest) -> NDArray[np.float32]:
    """Mean embeddings (n, D) of clips by an exported model."""
    waveforms = (torch.from_numpy(read_audio(path, model.sample_rate)[0])[None] for path in clips.paths)
    return np.stack([tagger.scores(model.logmel(x)[0].numpy()).embeddings[0].mean(0) for x in waveforms])


@command("latency")
def main(
    data: Annotated[Path, "folder that holds esc50-16k/ and collected/"],
    mn04: Annotated[str, "EfficientAT's mn04, by name or path"],
    model: Annotated[Sequence[str], "more models, by name or path"] = (),
    yamnet: Annotated[Path | None, "the published yamnet.tflite; needs ai-edge-litert"] = None,
    threads: Annotated[int, "of torch, ONNX Runtime and TFLite"] = 2,
    keep_memory: Annotated[bool, "speeds only, of a process that keeps its memory"] = False,
    seconds: Annotated[float, "length of a clip"] = 10.0,
    work: Annotated[Path, "folder for the manifest and int8 files"] = Path("runs/latency/pareto"),
) -> Iterator[Row]:
    """Measure speed and quality of networks."""
    what = "Pareto front"
    if keep_memory:
        memory.keep_memory()
        what += ", memory kept"
    names = {MN04: mn04, **{run_name(one): one for one in (*SHIPPED, *model)}}
    models = {name: load_model(one).eval() for name, one in names.items()}
    with use_threads(threads):
        taggers = {name: in_int8(one, work / f"{name}-int8.onnx", data / "collected") for name, one in models.items()}
        for clips in BATCHES:
            found = list(systems(models, taggers, yamnet, seconds, clips))
            yield from speeds(what, found, seconds, clips)
        if keep_memory:
            return
        for name, one in models.items():
            for clips in BATCHES:
                yield from stages(name, time_path(one, seconds, clips))
        manifest = esc50.prepared(data / "esc50-16k", work)
        for name, one in models.items():
            checksum = f"{name}: SHA-256 of the model {model_checksum(one)[:12]}"  # a run's weights are not shipped
            row: Row = {"what": what, "metric": "ESC-50 (%)", "data": _about(seconds)}
            row["note"] = checksum if names[name] in model else None
            embeddings = EmbeddingTransformer(names[name]).fit_transform(manifest.paths)
            quality = over_folds(esc50.score(embeddings, manifest))
            for line in (f"{name}, fastest backend", *((REFERENCE, OUR_FRONT_END) if name == MN04 else ())):
                yield {**row, "system": line, **quality}
            quality = over_folds(esc50.score(embed(taggers[name], one, manifest), manifest))
            yield {**row, "system": f"{name}, int8", **quality}


if __name__ == "__main__":
    raise SystemExit(main())
