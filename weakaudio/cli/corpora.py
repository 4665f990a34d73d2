"""Commands that prepare and verify corpora."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from weakaudio.cli.options import PASS_ON, SOME_FAILED, app
from weakaudio.errors import DataPrepError


@app.command(context_settings=PASS_ON)
def prepare(context: typer.Context) -> None:
    """Prepare a data set for training: `weakaudio prepare esc50 ROOT OUT`; `weakaudio prepare NAME --help`."""
    from jsonargparse import auto_cli

    known = {point.name: point for point in entry_points(group="weakaudio.data_prep")}
    name, *arguments = context.args or ["--help"]
    if name in ("-h", "--help"):
        typer.echo("Usage: weakaudio prepare NAME [ARGUMENTS]; see `weakaudio prepare NAME --help`.\n")
        typer.echo(f"NAME: {', '.join(sorted(known))}")
        return
    if name not in known:
        raise DataPrepError(f"data set {name!r}: unknown; expected one of {', '.join(sorted(known))}")
    function = known[name].load()
    summary = auto_cli(function, args=arguments, prog=f"weakaudio prepare {name}", fail_untyped=False)
    typer.echo(str(summary))
    if summary.failures:
        raise typer.Exit(SOME_FAILED)


@app.command()
def verify(corpus: Annotated[Path, typer.Argument(help="Folder of a prepared corpus with a clip store.")]) -> None:
    """Find clips that were lost or changed since a corpus was prepared; exit code 3 if there are any."""
    from weakaudio.data.corpus import verify_corpus

    faults = verify_corpus(corpus)
    for path, fault in faults.itertuples(index=False):
        typer.echo(f"{path}: {fault}")
    typer.echo(f"{corpus}: {len(faults)} faults" if len(faults) else f"{corpus}: all clips are intact")
    if len(faults):
        raise typer.Exit(SOME_FAILED)
