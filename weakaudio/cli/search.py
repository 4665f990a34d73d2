"""Commands of the architecture search: measure a device, fit a scaling law, search under a latency budget."""

from __future__ import annotations

import itertools
import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weakaudio.cli.options import app
from weakaudio.errors import WeakAudioError
from weakaudio.inference import DEFAULT_MODEL

if TYPE_CHECKING:
    from weakaudio.audio.frontend import FrontEnd
    from weakaudio.nas.blockwise import BlockwiseDistillation
    from weakaudio.nas.latency_model import Validation
    from weakaudio.nas.proxies import ShortTraining

LOG, PAGE, LAW_PAGE, GRID, STAGES = "search.jsonl", "search.html", "law.html", "grid.csv", "stages.json"


class ProxyName(str, Enum):
    """How networks are scored."""

    blockwise = "blockwise"
    training = "training"


search = typer.Typer(help="Search a network for a device.", no_args_is_help=True)
app.add_typer(search, name="search")

Seconds = Annotated[float, typer.Option(help="Length in seconds of the clips for which latency is predicted.")]
Batch = Annotated[int, typer.Option(help="Number of clips at once.")]
Table = Annotated[Path, typer.Option(help="Latency table from `weakaudio search profile`.")]
CorpusOption = Annotated[
    list[str],
    typer.Option(
        "--corpus",
        help="PATH=WEIGHT: a prepared corpus with the splits train and val, and the weight with which it is drawn "
        "from (1 for PATH alone); may be repeated.",
    ),
]
Teacher = Annotated[
    str,
    typer.Option(help="Teacher, by name or path: weakaudio's or EfficientAT's; its front end is used."),
]
Steps = Annotated[int, typer.Option(help="Steps of each training, of 32 mixtures of 4 s.")]
Precision = Annotated[
    str,
    typer.Option(
        help="Of the trainings: auto, bf16-mixed or 32-true; auto is bf16-mixed where that is native. Give the one "
        "that an earlier run was made with to resume it on another machine."
    ),
]
FrameStride = Annotated[
    int,
    typer.Option(
        "--frame-stride",
        "--every",
        help="Networks take every k-th frame of the teacher's log-mel: 2 halves the cost of front end and network, "
        "and doubles the length of segments.",
    ),
]
Device = Annotated[str, typer.Option(help="Device for training: cpu, cuda, or auto (a GPU if there is one).")]
Seed = Annotated[int, typer.Option(help="Random seed.")]


@search.command()
def profile(
    out: Annotated[Path, typer.Option("--out", "-o", help="Latency table to write or complete: .json.")],
    front_end: Annotated[
        str, typer.Option(help="Preset of the log-mel; NAME/2 is the preset with twice the hop.")
    ] = "efficientat-32k",
    seconds: Seconds = 10.0,
    batch: Batch = 8,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="torch's")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto (a GPU if there is one).")] = "cpu",
    graphs: Annotated[bool, typer.Option("--graphs", help="Replay from CUDA graphs.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Networks in 8 bits on ONNX Runtime; the front end stays on torch.")
    ] = False,
    validate: Annotated[
        int,
        typer.Option(min=0, help="Also measure N random networks, and report the error of their prediction."),
    ] = 0,
    csv: Annotated[Path | None, typer.Option(help="With --validate: CSV of predicted and measured seconds.")] = None,
) -> None:
    """Measure all components of the networks that a search may visit; a killed run resumes."""
    from weakaudio.audio.frontend import get_front_end
    from weakaudio.deploy.benchmark import describe, use_threads
    from weakaudio.nas.latency_model import ClipLatency, random_configs
    from weakaudio.nas.latency_model import validate as compare
    from weakaudio.nas.latency_table import LatencyTable
    from weakaudio.nas.search_space import SearchSpace
    from weakaudio.networks.runtime import find_device

    if csv is not None and not validate:
        raise WeakAudioError("--csv needs --validate N: it has a line for each of these networks")
    where, space = find_device(device), SearchSpace()
    with use_threads(threads):
        here = describe(where, graphs, int8)
    table = LatencyTable.load(out, here) if out.exists() else LatencyTable(here)
    latency = ClipLatency(table, front_end, seconds, batch)
    measured = latency.complete([architecture.to_config() for architecture in space.covering()], out)
    typer.echo(f"{here}: {measured} components measured, {len(table.times)} in the table -> {out}")
    for operator, reason in latency.failed(space).items():
        typer.echo(f"left out: {operator} ({reason})")
    if validate:
        n_mels = get_front_end(front_end).n_mels
        configs = random_configs(validate, n_mels=n_mels, space=latency.runnable(space), runs=latency.runs)
        found = compare(table, configs, front_end, seconds, batch)
        typer.echo(str(found))
        if csv is not None:
            _write_validation(csv, found)


@search.command()
def law(
    corpus: CorpusOption,
    out: Annotated[Path, typer.Option("--out", "-o", help=f"Folder for {GRID} and {LAW_PAGE}.")],
    table: Table,
    budget_ms: Annotated[
        list[float] | None,
        typer.Option(help="Latency budget per clip in milliseconds; may be repeated.", show_default="20"),
    ] = None,
    teacher: Teacher = DEFAULT_MODEL,
    depth: Annotated[
        list[float] | None,
        typer.Option(help="Depth as a multiple of the default network's; may be repeated.", show_default="1, 2, 3"),
    ] = None,
    width: Annotated[
        list[float] | None,
        typer.Option(help="Width as a multiple; may be repeated.", show_default="0.25, 0.5, 1, 1.5"),
    ] = None,
    steps: Steps = 300,
    precision: Precision = "auto",
    seconds: Seconds = 10.0,
    batch: Batch = 8,
    frame_stride: FrameStride = 1,
    workers: Annotated[int, typer.Option(help="Processes that mix the training data.")] = 1,
    device: Device = "cpu",
    seed: Seed = 0,
) -> None:
    """Train networks of several depths and widths briefly, fit a scaling law to their loss, and print the best
    network for each budget; a killed run resumes."""
    from weakaudio.nas.latency_model import ClipLatency
    from weakaudio.nas.latency_table import LatencyTable
    from weakaudio.nas.proxies import ShortTraining, read_corpora
    from weakaudio.nas.scaling_law import Law, best_ratio, fit_law, held_out_error, measure_grid, network_config
    from weakaudio.nas.scaling_report import law_page
    from weakaudio.reports.html import write_page

    depths, widths = sorted(set(depth or [1, 2, 3])), sorted(set(width or [0.25, 0.5, 1, 1.5]))
    if min(len(depths), len(widths)) < 3:
        raise WeakAudioError(f"{len(depths)} depths and {len(widths)} widths: a law needs 3 of each, or more")
    grid = list(itertools.product(depths, widths))
    budgets = [ms / 1000 for ms in budget_ms or [20.0]]
    training = ShortTraining(
        teacher,
        read_corpora(corpus),
        steps,
        precision=precision,
        frame_stride=frame_stride,
        seed=seed,
        workers=workers,
        device=device,
    )
    training.check()
    latency = ClipLatency(LatencyTable.load(table), _front_end(teacher, frame_stride), seconds, batch)
    latency.complete([network_config(*point) for point in grid], table)
    for budget in budgets:  # one that nothing meets is an error before hours of training
        best_ratio(Law(1.0, 0.0, 1.0, 0.0, 1.0), latency, grid, budget)
    trained = measure_grid(grid, training, out / GRID, training.settings)
    points = trained["depth"], trained["width"], trained["loss"]
    found, held_out = fit_law(*points), held_out_error(*points)
    trained["latency"] = [latency(network_config(*point)) for point in grid]
    choices = [(budget, best_ratio(found, latency, grid, budget)) for budget in budgets]
    write_page(law_page(trained, found, held_out, choices), out / LAW_PAGE)
    typer.echo(
        f"{len(trained)} networks; the greatest error on held-out ones is "
        f"{held_out['error'].abs().max():.1%} of the loss -> {out / LAW_PAGE}"
    )
    for budget, choice in choices:
        typer.echo(
            f"within {1000 * budget:g} ms: depth {choice.depth:g}, width {choice.width:g} with "
            f"{1000 * choice.latency:.3g} ms and a predicted loss of {choice.loss:.4g}: "
            f"{json.dumps(network_config(choice.depth, choice.width))}"
        )


@search.command()
def run(
    table: Table,
    budget_ms: Annotated[
        float, typer.Option(help="Latency budget per clip in milliseconds, from waveform to class probabilities.")
    ],
    corpus: CorpusOption,
    out: Annotated[Path, typer.Option("--out", "-o", help=f"Folder for {LOG} and {PAGE}.")],
    teacher: Teacher = DEFAULT_MODEL,
    proxy: Annotated[
        ProxyName,
        typer.Option(
            help="Score: blockwise: how well each stage, trained separately, predicts the teacher's maps; training: "
            "the loss after a short training of the whole network."
        ),
    ] = ProxyName.blockwise,
    steps: Steps = 300,
    precision: Precision = "auto",
    evaluations: Annotated[int, typer.Option(help="Total number of networks; more prolong a search.")] = 100,
    population: Annotated[int, typer.Option(help="Size of the population.")] = 50,
    sample: Annotated[int, typer.Option(help="Networks of the population, the best of which becomes a parent.")] = 12,
    children: Annotated[int, typer.Option(help="Networks per cycle.")] = 10,
    frame_stride: FrameStride = 1,
    workers: Annotated[int, typer.Option(help="Processes that score networks.")] = 1,
    seed: Seed = 0,
    seconds: Seconds = 10.0,
    batch: Batch = 8,
    device: Device = "cpu",
    allow_other_device: Annotated[
        bool, typer.Option("--allow-other-device", help="Accept a latency table of another device.")
    ] = False,
) -> None:
    """Search for the network with the lowest score within a latency budget, by ageing evolution; a killed run
    resumes."""
    from dataclasses import replace

    from weakaudio.nas.evolution import Evolution
    from weakaudio.nas.evolution import search as evolve
    from weakaudio.nas.latency_model import ClipLatency
    from weakaudio.nas.latency_table import LatencyTable
    from weakaudio.nas.proxies import read_corpora
    from weakaudio.nas.search_space import SearchSpace

    latency = ClipLatency(
        LatencyTable.load(table, allow_other_device=allow_other_device),
        _front_end(teacher, frame_stride),
        seconds,
        batch,
    )
    space = latency.runnable(SearchSpace())
    if proxy == ProxyName.blockwise:
        space = replace(space, features=(768,))  # which this proxy does not score
    for operator, reason in latency.failed(SearchSpace()).items():
        typer.echo(f"left out: {operator} ({reason})")
    evolution = Evolution(budget_ms / 1000, space, population, sample, children, seed)
    score = _proxy(proxy, teacher, read_corpora(corpus), out, steps, precision, frame_stride, seed, device)
    score.check()
    about = {"latency": latency.settings(space), "proxy": {"name": proxy.value, **score.settings}}
    evolve(evolution, latency, score, out / LOG, evaluations, workers, about)
    _write_page(out, None)


@search.command()
def page(
    out: Annotated[Path, typer.Argument(help="Folder of a search, which may still be running.")],
    full: Annotated[
        Path | None,
        typer.Option(
            help="CSV of number (of an evaluation) and score (after full training, lower is better): adds the rank "
            "correlation with scores of the search."
        ),
    ] = None,
) -> None:
    """Write the page of a search again."""
    _write_page(out, full)


def _write_page(out: Path, full: Path | None) -> None:
    from weakaudio.nas.evolution import best
    from weakaudio.nas.search_report import rank_correlation, read_full, search_page
    from weakaudio.nas.stores import read_log
    from weakaudio.reports.html import write_page

    settings, evaluations = read_log(out / LOG)
    known = None if full is None else read_full(full)
    write_page(search_page(settings, evaluations, known), out / PAGE)
    winner = best(evaluations)
    typer.echo(
        f"{len(evaluations)} networks; the best, number {winner.number}: score {winner.score:.4g}, "
        f"{1000 * (winner.latency or 0.0):.3g} ms -> {out / PAGE}"
    )
    typer.echo(json.dumps(winner.architecture.to_config()))
    if known is not None:
        typer.echo(f"rank correlation with full training: {rank_correlation(evaluations, known):.3f}")


def _front_end(teacher: str, frame_stride: int) -> FrontEnd:
    from weakaudio.audio.frontend import decimated
    from weakaudio.pretrained.registry import load_model

    return decimated(load_model(teacher).front_end, frame_stride)


def _proxy(
    proxy: ProxyName,
    teacher: str,
    corpora: dict[str, float],
    out: Path,
    steps: int,
    precision: str,
    frame_stride: int,
    seed: int,
    device: str,
) -> BlockwiseDistillation | ShortTraining:
    from weakaudio.nas.blockwise import BlockwiseDistillation
    from weakaudio.nas.proxies import ShortTraining

    common: dict[str, Any] = {
        "steps": steps,
        "precision": precision,
        "frame_stride": frame_stride,
        "seed": seed,
        "device": device,
    }
    if proxy == ProxyName.training:
        return ShortTraining(teacher, corpora, **common)
    return BlockwiseDistillation(teacher, corpora, store=out / STAGES, **common)


def _write_validation(path: Path, found: Validation) -> None:
    import pandas as pd

    from weakaudio.files import write_table
    from weakaudio.nas.search_space import ArchitectureConfig

    keys = [ArchitectureConfig.from_config(config).key for config in found.configs]
    write_table(pd.DataFrame({"network": keys, "predicted": found.predicted, "measured": found.measured}), path)
    typer.echo(f"-> {path}")
