"""Commands about models: list those that are known by name, and convert published weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weakaudio.cli.options import SOME_FAILED, app
from weakaudio.errors import CheckpointError, WeakAudioError

_SECONDS, _BATCH = 10.0, 8  # clips that `--measure` times


@app.command()
def models(
    measure: Annotated[
        bool, typer.Option("--measure", help="Also time the models that need no download, on this processor.")
    ] = False,
) -> None:
    """List the models that are known by name: size, figures, licence, and whether they are on this machine."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from weakaudio.pretrained.catalogue import COLUMNS, NOTE, catalogue

    entries = list(catalogue().values())
    last: dict[str, tuple[str, ...]] = {entry.name: (entry.location,) for entry in entries}
    failures: list[str] = []
    if measure:
        last, failures = _speeds([entry.name for entry in entries if entry.is_available])
    columns = (*COLUMNS, *(("speed", "ms") if measure else ("where",)))
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.columns[0].no_wrap = True
    for entry in entries:
        table.add_row(*entry.cells, *last.get(entry.name, ()))
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width
        console.width = max(console.width, 120)
    console.print(table)
    typer.echo(NOTE)
    if measure:
        typer.echo(
            f"speed: times real time, from waveform, in batches of {_BATCH} clips of {_SECONDS:g} s. ms: for one "
            "such clip. Models that need a download or are missing are left out."
        )
    for failure in failures:
        typer.echo(failure, err=True)
    if failures:
        raise typer.Exit(SOME_FAILED)


def _speeds(names: list[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Times real time and milliseconds for a clip of each model; and the errors of those that do not open."""
    from weakaudio.deploy.benchmark import time_path
    from weakaudio.pretrained.registry import load_model
    from weakaudio.progress import progress

    speeds: dict[str, tuple[str, ...]] = {}
    failures = []
    for name in progress(names, len(names), "measuring"):
        try:
            model = load_model(name)
        except WeakAudioError as error:
            failures.append(str(error))
            continue
        batch, clip = (time_path(model, _SECONDS, n_clips) for n_clips in (_BATCH, 1))
        speeds[name] = (f"{batch.times_real_time:.0f}", f"{1000 * clip.whole:.0f}")
    return speeds, failures


@app.command()
def convert(
    kind: Annotated[str, typer.Argument(help="efficientat, panns or paper (the N_S of arXiv 1711.01369).")],
    file: Annotated[Path, typer.Argument(help="Published weights, a file of torch.save.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model file to write: .safetensors.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Class names in the order of the outputs: AudioSet's class_labels_indices.csv, one name a line, or "
            "(required for the kind paper) classes_id_name.txt. Default: AudioSet's 527."
        ),
    ] = None,
) -> None:
    """Convert published weights of another project to a model file; a pickle with code in it is refused, not run."""
    from weakaudio.pretrained.checkpoint import save_model
    from weakaudio.pretrained.converters import convert as run
    from weakaudio.pretrained.converters import read_class_list

    if out.suffix != ".safetensors":
        raise CheckpointError(f"{out}: a model file's name ends in .safetensors")
    model = run(kind, file, read_class_list(labels) if labels else None)
    save_model(model, out)
    licence = model.metadata["licence"]
    typer.echo(f"{len(model.labels)} classes, {model.sample_rate} Hz, licence of the weights: {licence} -> {out}")
