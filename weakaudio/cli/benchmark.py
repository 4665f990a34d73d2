"""The command that measures the speed of models on this machine, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weakaudio.cli.options import app
from weakaudio.errors import WeakAudioError
from weakaudio.memory import keep_memory

if TYPE_CHECKING:
    from weakaudio.deploy.backends import Fastest
    from weakaudio.deploy.benchmark import PathTimes

Row = dict[str, str | int | float]


@app.command()
def benchmark(
    models: Annotated[list[str], typer.Argument(help="Names from `weakaudio models`, or paths of model files.")],
    seconds: Annotated[float, typer.Option(help="Length of a clip in seconds.")] = 10.0,
    batch: Annotated[
        list[int] | None, typer.Option(help="Clips at once; may be repeated.", show_default="1 and 8")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="torch's")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto (a GPU if there is one).")] = "cpu",
    backends: Annotated[
        bool,
        typer.Option("--backends", "--ways", help="Also compare backends: torch and ONNX Runtime."),
    ] = False,
    compiled: Annotated[
        bool,
        typer.Option("--compiled", help="Also torch.compile as a backend: takes a minute and a C++ compiler."),
    ] = False,
    out: Annotated[Path | None, typer.Option("--csv", help="Also write the figures to this file.")] = None,
) -> None:
    """Measure models on this machine: from waveform to clip probabilities, and each stage from the file on."""
    from weakaudio.deploy.backends import fastest
    from weakaudio.deploy.benchmark import describe, time_path, use_threads
    from weakaudio.networks.runtime import find_device
    from weakaudio.pretrained.registry import load_model
    from weakaudio.progress import progress

    batches = batch or [1, 8]
    if min(batches) < 1:
        raise WeakAudioError(f"a batch of {min(batches)} clips: expected 1 or more")
    if not 0 < seconds < float("inf"):
        raise WeakAudioError(f"clips of {seconds} s: expected more than 0")
    where = find_device(device)
    if backends and where.type != "cpu":
        raise WeakAudioError(f"--backends: {where} has a single one; measure with --device cpu")
    if compiled and not backends:
        raise WeakAudioError("--compiled is one of the --backends: give that option, too")
    keep_memory()
    with use_threads(threads):
        about = str(describe(where))
        loaded = [(name, load_model(name)) for name in models]
        todo = [(name, model, size) for name, model in loaded for size in batches]
        times = [
            (name, time_path(model, seconds, size, where))
            for name, model, size in progress(todo, len(todo), "measuring")
        ]
        choices = [fastest(model, seconds, size, compiled) for _, model, size in todo] if backends else []
    _show(times, about)
    for (name, _, size), choice in zip(todo, choices, strict=False):
        typer.echo(f"{name}, batch {size}: {_summary(choice, size)}")
    if out is not None:
        import pandas as pd

        from weakaudio.files import write_table

        write_table(pd.DataFrame([_row(name, taken, about) for name, taken in times]), out)


def _summary(choice: Fastest, batch: int) -> str:
    """Backends, fastest first, with milliseconds per clip."""
    measured = ", ".join(f"{name} {1000 * taken / batch:.2f} ms" for name, taken in choice.seconds.items())
    return "; ".join([measured, *(f"{name} left out: {reason}" for name, reason in choice.left_out.items())])


def _row(name: str, times: PathTimes, about: str) -> Row:
    """A line of the CSV file, with times per clip."""
    return {
        "model": name,
        "device": about,
        "batch": times.batch,
        "seconds": times.seconds,
        "times_real_time": float(f"{times.times_real_time:.4g}"),
        "clip_ms": round(1000 * times.whole, 3),
        "decode_ms": round(1000 * times.decode, 3),
        "resample_ms": round(1000 * times.resample, 3),
        "logmel_ms": round(1000 * times.logmel, 3),
        "network_ms": round(1000 * times.network, 3),
        "peak_mb": "" if times.peak_memory is None else round(times.peak_memory / 1e6, 1),
    }


def _show(times: list[tuple[str, PathTimes]], about: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from weakaudio.deploy.benchmark import FILE_RATE

    on_gpu = any(taken.peak_memory is not None for _, taken in times)
    columns = ("x real time", "ms", "decode", "resample", "log-mel", "network", *(["peak MB"] if on_gpu else []))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    for column in ("batch", *columns):
        table.add_column(column, justify="right", no_wrap=True)
    for name, taken in times:
        stages = taken.whole, taken.decode, taken.resample, taken.logmel, taken.network
        peak = [] if taken.peak_memory is None else [f"{taken.peak_memory / 1e6:.0f}"]
        shown = [f"{1000 * value:.2f}" for value in stages]
        table.add_row(name, str(taken.batch), f"{taken.times_real_time:.0f}", *shown, *peak)
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width
        console.width = max(console.width, 120)
    console.print(table)
    typer.echo(about)
    typer.echo(
        f"Medians, for clips of {times[0][1].seconds:g} s. x real time (seconds of audio per second) and ms (per "
        "clip): from waveform to clip probabilities, that is log-mel and network. Stages: ms per clip; decode (of a "
        f"16-bit WAV of {FILE_RATE} Hz) and resample (to the model's rate) are not part of x real time."
    )
