"""The command that brings a model to a device."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from weakaudio.cli.options import app
from weakaudio.errors import WeakAudioError


class FrontEndPlace(str, Enum):
    """Whether a file makes its log-mels itself."""

    inside = "inside"
    outside = "outside"


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Path of a model file, or a name of `weakaudio models`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .onnx.")],
    front_end: Annotated[
        FrontEndPlace, typer.Option(help="inside: the file takes waveforms; outside: log-mels.")
    ] = FrontEndPlace.inside,
    int8: Annotated[bool, typer.Option("--int8", help="Compute in 8 bits; needs --calibrate.")] = False,
    calibrate: Annotated[
        Path | None, typer.Option(help="Folder of recordings like those to come, some dozens; for --int8.")
    ] = None,
) -> None:
    """Write a model as one ONNX file, which `weakaudio.deploy.onnx_tagger` runs without torch."""
    if int8 != (calibrate is not None):
        raise WeakAudioError(
            "--int8 and --calibrate FOLDER go together: the folder's recordings say what 8 bits span"
        )
    from weakaudio.pretrained import load_model

    opened = load_model(model)
    if calibrate is None:
        from weakaudio.deploy.export import export_onnx

        exported = export_onnx(opened, out, front_end.value)
        typer.echo(
            f"{len(opened.labels)} classes, {opened.sample_rate} Hz, {exported.size / 1e6:.1f} MB; probabilities are "
            f"the model's to {exported.difference:.0e} -> {out}"
        )
    else:
        from weakaudio.deploy.quantize import export_int8

        typer.echo(f"{export_int8(opened, out, calibrate, front_end.value)} -> {out}")
