"""The command that exports a model to ONNX."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from weakaudio.cli.options import app
from weakaudio.errors import WeakAudioError


class FrontEndPlace(str, Enum):
    """Where the log-mel is computed."""

    inside = "inside"
    outside = "outside"


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Path of a model file, or a name of `weakaudio models`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .onnx.")],
    front_end: Annotated[
        FrontEndPlace, typer.Option(help="inside: the file takes waveforms; outside: log-mels.")
    ] = FrontEndPlace.inside,
    int8: Annotated[bool, typer.Option("--int8", help="Quantize to 8 bits; needs --calibrate.")] = False,
    calibrate: Annotated[
        Path | None, typer.Option(help="Folder of a few dozen typical recordings; for --int8.")
    ] = None,
) -> None:
    """Export a model to an ONNX file, which `weakaudio.OnnxTagger` runs without torch."""
    if int8 != (calibrate is not None):
        raise WeakAudioError(
            "--int8 and --calibrate FOLDER go together: the recordings calibrate the ranges of 8-bit values"
        )
    from weakaudio.pretrained.registry import load_model

    opened = load_model(model)
    if calibrate is None:
        from weakaudio.deploy.export import export_onnx

        difference = export_onnx(opened, out, front_end.value)
        typer.echo(
            f"{len(opened.labels)} classes, {opened.sample_rate} Hz, {out.stat().st_size / 1e6:.1f} MB; "
            f"probabilities differ from the model's by {difference:.0e} at most -> {out}"
        )
    else:
        from weakaudio.deploy.quantize import export_int8

        typer.echo(f"{export_int8(opened, out, calibrate, front_end.value)} -> {out}")
