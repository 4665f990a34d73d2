"""Commands about models: which there are, and bringing published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weakaudio.cli.options import SOME_FAILED, app
from weakaudio.errors import CheckpointError, WeakAudioError


@app.command()
def models(
    measure: Annotated[
        bool, typer.Option("--measure", help="Also how fast those are that need no download, on this processor.")
    ] = False,
) -> None:
    """List the models that are known by name: size, figures, licence, and where they are."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from weakaudio.pretrained.catalogue import catalogue
    from weakaudio.pretrained.overview import COLUMNS, NOTE, facts, whereabouts

    entries = list(catalogue().values())
    last: dict[str, tuple[str, ...]] = {entry.name: (whereabouts(entry),) for entry in entries}
    failures: list[str] = []
    if measure:
        last, failures = _speeds([entry.name for entry in entries if entry.at_hand])
    columns = (*COLUMNS, *(("speed", "ms") if measure else ("where",)))
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.columns[0].no_wrap = True
    for entry in entries:
        table.add_row(*facts(entry), *last.get(entry.name, ()))
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width
        console.width = max(console.width, 120)
    console.print(table)
    typer.echo(NOTE)
    if measure:
        typer.echo(
            "speed: seconds of audio a second, from waveform, in batches of 8 clips of 10 s. ms: for one such clip. "
            "Left out: what needs a download or is missing here."
        )
    for failure in failures:
        typer.echo(failure, err=True)
    if failures:
        raise typer.Exit(SOME_FAILED)


def _speeds(names: list[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Times real time and milliseconds per clip of each model, and the errors of those that do not open."""
    from weakaudio.latency.fastest import time_path
    from weakaudio.pretrained import load_model
    from weakaudio.progress import progress

    speeds: dict[str, tuple[str, ...]] = {}
    failures = []
    for name in progress(names, len(names), "measuring"):
        try:
            model = load_model(name)
            batch, single = time_path(model, batch=8), time_path(model)
        except WeakAudioError as error:
            failures.append(str(error))
        else:
            speeds[name] = (f"{batch.times_real_time:.0f}", f"{1000 * single.whole:.0f}")
    return speeds, failures


@app.command()
def convert(
    kind: Annotated[str, typer.Argument(help="efficientat, panns or paper (the N_S of arXiv 1711.01369).")],
    file: Annotated[Path, typer.Argument(help="Weights as they are published, a file of torch.save.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model file to write: .safetensors.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Class names in the order of the outputs: AudioSet's class_labels_indices.csv, one name a line, or "
            "(for the kind paper, which needs it) classes_id_name.txt. Else AudioSet's 527."
        ),
    ] = None,
) -> None:
    """Make a model file of weights that others publish; a pickle with code in it is refused, and its code not run."""
    from weakaudio.pretrained import convert as run
    from weakaudio.pretrained import save_model
    from weakaudio.pretrained.class_list import read_class_list

    if out.suffix != ".safetensors":
        raise CheckpointError(f"{out}: a model file's name ends in .safetensors")
    model = run(kind, file, read_class_list(labels) if labels else None)
    save_model(model, out)
    licence = model.notes["licence"]
    typer.echo(f"{len(model.labels)} classes, {model.sample_rate} Hz, licence of the weights: {licence} -> {out}")
