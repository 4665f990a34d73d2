"""The frontier: how fast networks are from waveform to clip probabilities, in one run, and how good off the shelf.

    python -m recipes.latency.frontier --data ../shared/data --mn04 MODEL --yamnet yamnet.tflite

On an idle machine, from the project's folder. Speed on noise, in rounds of one turn of each system, so that moods of
the machine meet all, with a rest before each turn: idle threads of one runtime would else spin into the next turn.
Memory is had and given back as the C library does by itself, which costs large tensors dearly; `--keep-memory`
measures without that. Quality on ESC-50: frozen embeddings (F1, mean), linear SVM, five folds. In 8 bits, the ranges
of activations are from recordings of `collected/`, none of which is in ESC-50.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from weakaudio.transfer.features import EmbeddingTransformer
from weakaudio_data_prep.esc50 import prepare

from recipes.benchmark.compare import Scale, waveforms
from recipes.latency import published
from recipes.results import ROOT, Row, record
from weakaudio.audio.io import read_audio
from weakaudio.data.corpus import MANIFEST
from weakaudio.data.manifest import Manifest, read_manifest
from weakaudio.deploy.backends import fastest
from weakaudio.deploy.benchmark import Job, PathTimes, time_path, time_rounds
from weakaudio.deploy.onnx_tagger import OnnxTagger
from weakaudio.deploy.quantize import export_int8
from weakaudio.errors import WeakAudioError
from weakaudio.memory import keep_memory
from weakaudio.networks.model import Model
from weakaudio.pretrained import load_model, model_checksum
from weakaudio.transfer.classifiers import build_classifier
from weakaudio.transfer.cross_validation import cross_validate

BATCHES = (1, 8)
MN04 = "efficientat-mn04"
REFERENCE, OUR_FRONT_END = f"{MN04}, as published", f"{MN04}, our front end"
_REST = 0.05  # seconds before a turn
SHIPPED = ("weakaudio-small", "weakaudio-base", "weakaudio-fast")


class System(NamedTuple):
    """What stands in a line of the table."""

    name: str
    sample_rate: int
    run: published.Run
    note: str | None = None
    """which way is the fastest"""


def in_int8(model: Model, path: Path, recordings: Path) -> OnnxTagger:
    """A model on ONNX Runtime in 8 bits, behind the log-mel of torch; its file is made unless it is there."""
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
    mn04: Model, models: dict[str, Model], taggers: dict[str, OnnxTagger], yamnet: Path | None, scale: Scale
) -> Iterator[System]:
    """All but the reference. Each of our models goes the way that is fastest here for this batch, and in 8 bits."""

    def fastest_way(name: str, model: Model) -> System:
        found = fastest(model, scale.seconds, scale.clips)
        return System(
            f"{name}, fastest way", model.sample_rate, found.run, f"{name}, batch {scale.clips}: {found.name}"
        )

    plain = published.clips_alone(lambda waveform: mn04.logmel(waveform)[0], mn04.network)
    yield System(OUR_FRONT_END, mn04.sample_rate, plain)
    for name, model in models.items():
        yield fastest_way(name, model)
    for name, tagger in taggers.items():
        yield System(f"{name}, int8", models[name].sample_rate, by_tagger(tagger, models[name]))
    yield System("N_S as released (44.1 kHz)", 44100, published.plain_ns())
    yield fastest_way("N_S (44.1 kHz)", load_model("untrained-44k"))
    if yamnet is not None:
        yield System("YAMNet, TFLite", 16000, published.yamnet(yamnet, scale.threads))
    others: dict[str, tuple[int, Callable[[], published.Run | None]]] = {
        "AST base, transformers (16 kHz)": (16000, published.ast),
        "MobileNetV3 large, torchvision": (32000, published.mobilenet_v3),
    }
    for name, (rate, make) in others.items():
        run_or_none = make()
        if run_or_none is not None:
            yield System(name, rate, run_or_none)


def measure_speed(mn04: Model, others: Sequence[System], scale: Scale) -> dict[str, NDArray[np.float64]]:
    """Seconds of each round by system, the reference first."""
    jobs: dict[str, Job] = {}
    for system in (System(REFERENCE, mn04.sample_rate, published.efficientat(mn04)), *others):
        batch = waveforms(scale, system.sample_rate)
        jobs[system.name] = lambda run=system.run, batch=batch: run(batch)  # type: ignore[misc]
    rounds = time_rounds(list(jobs.values()), torch.device("cpu"), before=lambda: time.sleep(_REST))
    return dict(zip(jobs, rounds.T, strict=True))


def speed_rows(
    seconds: Mapping[str, NDArray[np.float64]], scale: Scale, notes: Mapping[str, str | None], what: str = "frontier"
) -> Iterator[Row]:
    """Rows for `recipes.results`, but for data and command: medians over rounds."""
    for system, own in seconds.items():
        row = {"what": what, "system": system, "note": notes.get(system)}
        if scale.clips == 1:
            yield {**row, "metric": f"ms for {scale.seconds:g} s", "value": 1000 * float(np.median(own))}
        else:
            speed = scale.audio_seconds / float(np.median(own))
            yield {**row, "metric": f"times real time, batch {scale.clips}", "value": speed}
        if system != REFERENCE:
            low, ratio, high = np.percentile(seconds[REFERENCE] / own, [25, 50, 75])
            facts = {"value": float(ratio), "spread": float(high - low) / 2, "n": len(own)}
            yield {**row, "metric": f"times mn04 as published, batch {scale.clips}", **facts}


def part_rows(name: str, times: PathTimes) -> Iterator[Row]:
    """Each step of a model's path as a figure of its own."""
    steps = {"decode": times.decode, "resample": times.resample, "log-mel": times.logmel, "network": times.network}
    for step, seconds in steps.items():
        row = {"what": f"path, batch {times.batch}", "system": name}
        yield {**row, "metric": f"{step} (ms for {times.seconds:g} s)", "value": 1000 * seconds}


def quality(X: NDArray[np.float32], clips: Manifest) -> dict[str, float]:
    """Accuracy in percent of a linear SVM on embeddings (n, D) of ESC-50, its spread over folds, and their number."""
    y = [labels[0] for labels in clips.table["labels"]]
    svm, folds = build_classifier("linear-svm"), clips.table["fold"]
    scores = cross_validate(svm, X, y, folds, clips.table["source"], allow_shared_sources=True)
    return {"value": 100 * scores.mean, "spread": 100 * scores.std, "n": len(scores.accuracies)}


def embed(tagger: OnnxTagger, model: Model, clips: Manifest) -> NDArray[np.float32]:
    """(n, D) mean embeddings of clips by an exported model."""
    found = []
    with torch.inference_mode():
        for path in clips.paths:
            waveform = torch.from_numpy(read_audio(path, model.sample_rate)[0])[None]
            found.append(tagger.scores(model.logmel(waveform)[0].numpy()).embeddings[0].mean(0))
    return np.stack(found)


def main(args: Sequence[str] | None = None, root: Path = ROOT) -> None:
    """The command; figures are recorded below `root`."""
    parser = argparse.ArgumentParser("python -m recipes.latency.frontier", description="Speed and quality.")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds esc50-16k/ and collected/")
    parser.add_argument("--mn04", required=True, help="EfficientAT's mn04, by name or path")
    parser.add_argument("--model", action="append", default=[], help="beside those that come with the package")
    parser.add_argument("--yamnet", type=Path, help="the published yamnet.tflite; needs ai-edge-litert")
    parser.add_argument("--threads", type=int, default=2, help="of torch, ONNX Runtime and TFLite")
    parser.add_argument("--keep-memory", action="store_true", help="speeds only, of a process that keeps its memory")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a clip")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/latency/frontier"), help="folder for the manifest and int8 files"
    )
    given = parser.parse_args(args)
    command = shlex.join(["python", "-m", "recipes.latency.frontier", *(sys.argv[1:] if args is None else args)])
    torch.set_num_threads(given.threads)
    what = "frontier"
    if given.keep_memory:
        keep_memory()
        what = "frontier, memory kept"
    names = {MN04: given.mn04, **{_name(model): model for model in (*SHIPPED, *given.model)}}
    models = {name: load_model(model).eval() for name, model in names.items()}
    mn04 = models[MN04]
    prepare(str(given.data / "esc50-16k"), str(given.work))
    taggers = {
        name: in_int8(model, given.work / f"{name}-int8.onnx", given.data / "collected")
        for name, model in models.items()
    }

    def keep(rows: Iterator[Row], data: str) -> None:
        measured = [{**row, "data": data, "command": command} for row in rows]
        record("latency", measured, root)
        for row in measured:
            Console().print(f"{row['system']}, {row['metric']}: {row['value']:.2f}")

    data = f"clips of {given.seconds:g} s of noise, from waveform, {given.threads} threads; ESC-50 at 16 kHz"
    for clips in BATCHES:
        scale = Scale(clips, given.seconds, threads=given.threads)
        others = list(systems(mn04, models, taggers, given.yamnet, scale))
        notes = {system.name: system.note for system in others}
        keep(speed_rows(measure_speed(mn04, others, scale), scale, notes, what), data)
    if given.keep_memory:
        return
    for name, model in models.items():
        for clips in BATCHES:
            about = f"clips of {given.seconds:g} s of noise, network fused, {given.threads} threads"
            keep(part_rows(name, time_path(model, given.seconds, clips)), about)
    esc50 = read_manifest(given.work / MANIFEST)
    for name, model_name in names.items():
        lines = [f"{name}, fastest way"]
        if name == MN04:
            lines += [REFERENCE, OUR_FRONT_END]
        own = (
            f"{name}: SHA-256 of the model {model_checksum(models[name])[:12]}" if model_name in given.model else None
        )
        facts = {"what": "frontier", "metric": "ESC-50 (%)", "note": own}  # a run's weights are not in the project
        found = quality(EmbeddingTransformer(model_name).fit_transform(esc50.paths), esc50)
        keep(iter([{**facts, "system": line, **found} for line in lines]), data)
        found = quality(embed(taggers[name], models[name], esc50), esc50)
        keep(iter([{**facts, "system": f"{name}, int8", **found}]), data)


def _name(model: str) -> str:
    """A run is known by its folder."""
    path = Path(model)
    return path.parent.name if path.name == "model.safetensors" else path.stem


if __name__ == "__main__":
    try:
        main()
    except WeakAudioError as error:
        sys.exit(f"frontier: {error}")
